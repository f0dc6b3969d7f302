//! The lines of a record: printing, reading back, the summary.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::path::Path;

use hybridq::{Error, Result};
use serde::{Deserialize, Serialize};

/// Lines of the summary of worst fractions.
const WORST: usize = 15;

/// One line of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    pub family: String,
    pub shape: String,
    pub isa: String,
    pub threads: usize,
    /// None for a line that is no time.
    pub median_ns: Option<f64>,
    pub value: f64,
    pub unit: String,
    /// The machine's limit in the same unit, measured in this run, where there is one.
    pub ceiling: Option<f64>,
    /// Largest deviation from an independent calculation, relative to the largest result.
    pub error: Option<f64>,
    /// Most memory the process held during the line, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_mib: Option<f64>,
}

impl Line {
    /// A line that is neither timed nor compared.
    pub fn plain(family: &str, shape: String, isa: &str, threads: usize, (value, unit): (f64, &str)) -> Self {
        let (family, isa, unit) = (family.into(), isa.into(), unit.into());
        let (median_ns, ceiling, error, peak_mib) = (None, None, None, None);
        Line { family, shape, isa, threads, median_ns, value, unit, ceiling, error, peak_mib }
    }

    /// What tells one line from another within a record.
    pub fn key(&self) -> (&str, &str, &str, usize) {
        (&self.family, &self.shape, &self.isa, self.threads)
    }

    fn fraction(&self) -> Option<f64> {
        Some(self.value / self.ceiling.filter(|ceiling| *ceiling > 0.0)?)
    }

    fn text(&self) -> String {
        let time = self.median_ns.map_or(String::new(), nice_time);
        let share = self.fraction().map_or(String::new(), |fraction| format!("{:.0} %", 100.0 * fraction));
        let ceiling = self.ceiling.map_or(String::new(), |ceiling| format!("of {ceiling:.1}"));
        let error =
            self.error.map_or(String::new(), |error| if error == 0.0 { "0".into() } else { format!("{error:.0e}") });
        let peak = self.peak_mib.map_or(String::new(), |peak| format!("{peak:.0}"));
        let columns = format!(
            "{:17} {:34} {:10} {:>2}  {time:>10}  {:>9.2} {:9} {share:>6} {ceiling:11} {error:>6} {peak:>6}",
            self.family, self.shape, self.isa, self.threads, self.value, self.unit
        );
        columns.trim_end().to_owned()
    }
}

/// Nanoseconds in the unit that suits them.
pub fn nice_time(ns: f64) -> String {
    match ns {
        ns if ns < 1e4 => format!("{ns:.0} ns"),
        ns if ns < 1e7 => format!("{:.1} us", ns / 1e3),
        ns => format!("{:.1} ms", ns / 1e6),
    }
}

/// Where lines go: JSON Lines or a table on stdout, all of them remembered.
pub struct Report {
    json: bool,
    lines: RefCell<Vec<Line>>,
    bar: indicatif::ProgressBar,
}

impl Report {
    pub fn new(json: bool) -> Self {
        // Hidden where stderr is no terminal.
        let bar = indicatif::ProgressBar::new(0);
        let style = indicatif::ProgressStyle::with_template("{pos}/{len} {elapsed} {wide_msg}");
        bar.set_style(style.expect("a template of known fields"));
        Report { json, lines: RefCell::new(Vec::new()), bar }
    }

    /// The heading of the table.
    pub fn heading(&self) -> Result<()> {
        let title = format!(
            "{:17} {:34} {:10} {:>2}  {:>10}  {:>9} {:9} {:>6} {:11} {:>6} {:>6}",
            "family", "shape", "isa", "t", "median", "value", "", "share", "of ceiling", "error", "MiB"
        );
        self.say(&title)
    }

    /// Text beside the lines; nothing in JSON.
    pub fn say(&self, text: &str) -> Result<()> {
        if self.json { Ok(()) } else { self.bar.suspend(|| crate::write_stdout(&format!("{text}\n"))) }
    }

    pub fn line(&self, line: Line) -> Result<()> {
        let json = || serde_json::to_string(&line).expect("plain numbers");
        let text = if self.json { json() } else { line.text() };
        self.bar.suspend(|| crate::write_stdout(&(text + "\n")))?;
        self.lines.borrow_mut().push(line);
        Ok(())
    }

    /// Progress on stderr: `jobs` are to come.
    pub fn expect(&self, jobs: usize) {
        self.bar.inc_length(jobs as u64);
    }

    /// Progress on stderr: the next job.
    pub fn begin(&self, job: &str) {
        self.bar.set_message(job.to_owned());
        self.bar.tick();
    }

    /// Progress on stderr: the job is done.
    pub fn done(&self) {
        self.bar.inc(1);
    }

    pub fn lines(&self) -> std::cell::Ref<'_, Vec<Line>> {
        self.lines.borrow()
    }

    /// The lines farthest below their ceilings, worst first.
    pub fn summary(&self) -> Result<()> {
        self.bar.finish_and_clear();
        let lines = self.lines.borrow();
        let mut shares: Vec<(f64, &Line)> = lines.iter().filter_map(|line| Some((line.fraction()?, line))).collect();
        if shares.is_empty() || self.json {
            return Ok(());
        }
        shares.sort_by(|a, b| a.0.total_cmp(&b.0));
        self.say("\nfarthest below their ceilings, worst first")?;
        shares.iter().take(WORST).try_for_each(|(_, line)| self.say(&line.text()))
    }
}

/// The lines of a record: JSON Lines as `--json` prints them; empty lines and lines that begin with `#` are left out.
pub fn read_record(path: &Path) -> Result<Vec<Line>> {
    let bytes = std::fs::read(path).map_err(|error| Error::io(path, error))?;
    let not_one = |what: String| Error::format(path, None, format!("not a record of hybridq bench --json: {what}"));
    let text = String::from_utf8(bytes).map_err(|_| not_one("not UTF-8".into()))?;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if !line.trim().is_empty() && !line.starts_with('#') {
            let parsed = serde_json::from_str(line);
            lines.push(parsed.map_err(|error| not_one(format!("line {}: {error}", number + 1)))?);
        }
    }
    if lines.is_empty() { Err(not_one("no lines".into())) } else { Ok(lines) }
}
