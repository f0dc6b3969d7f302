//! `hybridq bench --compare`: two records side by side.
#![forbid(unsafe_code)]

use hybridq::Result;

use super::record::Line;

/// Prints the lines of both records in the order of `new`, with the ratio of their values, then what only one has.
pub fn print(old: &[Line], new: &[Line], (old_name, new_name): (&str, &str)) -> Result<()> {
    crate::write_stdout(&text(old, new, (old_name, new_name)))
}

fn text(old: &[Line], new: &[Line], (old_name, new_name): (&str, &str)) -> String {
    let mut text = format!("A = {old_name}\nB = {new_name}\nB/A: above 1 is faster, except in % and MiB\n\n");
    text += &format!(
        "{:17} {:34} {:10} {:>2} {:>10} {:>10} {:9} {:>6} {:>7} {:>7}\n",
        "family", "shape", "isa", "t", "A", "B", "", "B/A", "A share", "B share"
    );
    let mut ratios = Vec::new();
    for line in new {
        let Some(before) = old.iter().find(|other| other.key() == line.key() && other.unit == line.unit) else {
            continue;
        };
        let ratio = line.value / before.value;
        // Ceilings tell how alike the machines were, not how good the kernels are.
        if line.family != "ceiling" && line.median_ns.is_some() && ratio.is_finite() && ratio > 0.0 {
            ratios.push(ratio);
        }
        let share = |line: &Line| {
            line.ceiling.map_or(String::new(), |ceiling| format!("{:.0} %", 100.0 * line.value / ceiling))
        };
        let row = format!(
            "{:17} {:34} {:10} {:>2} {:>10.2} {:>10.2} {:9} {ratio:>6.2} {:>7} {:>7}",
            line.family,
            line.shape,
            line.isa,
            line.threads,
            before.value,
            line.value,
            line.unit,
            share(before),
            share(line)
        );
        text += row.trim_end();
        text += "\n";
    }
    if !ratios.is_empty() {
        let mean = (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp();
        text += &format!("\ngeometric mean of {} timed lines: {mean:.3}\n", ratios.len());
    }
    for (only, record, other) in [("A", old, new), ("B", new, old)] {
        let missing = record.iter().filter(|line| other.iter().all(|o| o.key() != line.key())).count();
        if missing > 0 {
            text += &format!("{missing} lines only in {only}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_meet_by_what_they_measure() {
        let line = |shape: &str, value: f64| Line {
            median_ns: Some(1.0),
            ceiling: Some(100.0),
            ..Line::plain("pack", shape.into(), "avx2", 2, (value, "GB/s"))
        };
        let (old, new) = ([line("a", 10.0), line("b", 1.0)], [line("a", 20.0), line("c", 1.0)]);
        let text = text(&old, &new, ("old", "new"));
        let row = text.lines().find(|row| row.starts_with("pack")).unwrap();
        for part in [" 10.00", " 20.00", " 2.00", "10 %", "20 %"] {
            assert!(row.contains(part), "{row}");
        }
        assert!(text.contains("1 timed lines: 2.000"), "{text}");
        assert!(text.contains("1 lines only in A") && text.contains("1 lines only in B"), "{text}");
    }
}
