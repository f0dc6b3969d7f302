//! Means, spreads and Welch's test.
#![forbid(unsafe_code)]

/// Mean, and the standard deviation of the sample (`None` for one value).
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Sample {
    pub count: usize,
    pub mean: f64,
    pub deviation: Option<f64>,
}

impl Sample {
    /// `None` without values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len();
        if count == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
        Some(Sample { count, mean, deviation: (count > 1).then(|| (squares / (count - 1) as f64).sqrt()) })
    }

    /// Two-sided p-value of equal means (Welch, "The generalization of Student's problem", 1947); `None` with fewer than two
    /// values a side.
    pub fn welch(&self, other: &Sample) -> Option<f64> {
        let part = |sample: &Sample| Some(sample.deviation? * sample.deviation? / sample.count as f64);
        let (a, b) = (part(self)?, part(other)?);
        let difference = self.mean - other.mean;
        if a + b == 0.0 {
            return Some(if difference == 0.0 { 1.0 } else { 0.0 });
        }
        let t = difference / (a + b).sqrt();
        let freedom = (a + b) * (a + b) / (a * a / (self.count - 1) as f64 + b * b / (other.count - 1) as f64);
        Some(incomplete_beta(freedom / (freedom + t * t), 0.5 * freedom, 0.5))
    }
}

/// The regularised incomplete beta function `I_x(a, b)`, by its continued fraction (Abramowitz and Stegun, 26.5.8), modified
/// Lentz's way.
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(1.0 - x, b, a);
    }
    let logarithm = libm::lgamma(a + b) - libm::lgamma(a) - libm::lgamma(b) + a * libm::log(x) + b * libm::log1p(-x);
    let away = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let (mut c, mut d) = (1.0, 1.0 / away(1.0 - (a + b) * x / (a + 1.0)));
    let mut fraction = d;
    for m in 1..500 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut factor = 1.0;
        for term in [even, odd] {
            d = 1.0 / away(1.0 + term * d);
            c = away(1.0 + term / c);
            factor = c * d;
            fraction *= factor;
        }
        if (factor - 1.0).abs() < 1e-15 {
            break;
        }
    }
    libm::exp(logarithm) * fraction / a
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of scipy.stats.ttest_ind(equal_var=False).
    #[test]
    fn welch_agrees_with_scipy() {
        let sample = |values: &[f64]| Sample::of(values).unwrap();
        for (a, b, expected) in [
            (&[1.0, 2.0, 3.0][..], &[2.0, 3.0, 4.0][..], WELCH[0]),
            (&[1.815, 1.822, 1.809], &[2.261, 2.251, 2.27], WELCH[1]),
            (&[1.0, 1.5], &[1.1, 0.9, 1.3, 1.2, 1.05], WELCH[2]),
        ] {
            let p = sample(a).welch(&sample(b)).unwrap();
            assert!((p / expected - 1.0).abs() < 1e-6, "{p} {expected}");
        }
        assert_eq!(sample(&[1.0]).welch(&sample(&[2.0, 3.0])), None);
        assert_eq!(sample(&[1.0, 1.0]).welch(&sample(&[1.0, 1.0])), Some(1.0));
        assert_eq!(Sample::of(&[]), None);
        assert!((sample(&[1.0, 2.0, 4.0]).deviation.unwrap() - (7.0f64 / 3.0).sqrt()).abs() < 1e-12);
    }

    const WELCH: [f64; 3] = [2.878641347267e-01, 1.285287176232e-06, 6.747344580747e-01];
}
