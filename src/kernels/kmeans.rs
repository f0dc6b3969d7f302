//! Nearest centroids and centroid sums (csrc/README.md, "kmeans").

use super::bindings as c;
use super::isa::Isa;
use super::table::KernelTable;

/// Centroids of a panel.
const PANEL: usize = 16;
/// Points a kernel works on at once, at most: rows of the scratch memory.
const POINTS: usize = 6;

type Panels = unsafe extern "C" fn(*const f32, usize, usize, *mut f32, *mut f32, *mut f64);
type Assign = unsafe extern "C" fn(
    *const f32,
    usize,
    usize,
    *const f32,
    usize,
    *const f32,
    *const f32,
    f64,
    *mut f32,
    *mut u32,
    *mut f32,
);

/// The k-means family of one ISA.
#[derive(Clone, Copy, Debug)]
pub(super) struct KMeansKernels {
    panels: Panels,
    assign: Assign,
    sums: unsafe extern "C" fn(*const f32, usize, usize, *const u32, *mut f64, *mut u64),
}

impl KMeansKernels {
    pub(super) fn for_isa(isa: Isa) -> Self {
        let mut kernels = KMeansKernels {
            panels: c::hqk_kmeans_panels_portable,
            assign: c::hqk_kmeans_assign_portable,
            sums: c::hqk_kmeans_sums_portable,
        };
        #[cfg(hqk_avx2)]
        if isa.includes(Isa::Avx2) {
            kernels = KMeansKernels {
                panels: c::hqk_kmeans_panels_avx2,
                assign: c::hqk_kmeans_assign_avx2,
                sums: c::hqk_kmeans_sums_avx2,
            };
        }
        #[cfg(hqk_neon)]
        if isa.includes(Isa::Neon) {
            kernels = KMeansKernels {
                panels: c::hqk_kmeans_panels_neon,
                assign: c::hqk_kmeans_assign_neon,
                sums: c::hqk_kmeans_sums_neon,
            };
        }
        let _ = isa;
        kernels
    }
}

/// Centroids `[k, dim]` arranged for [`KernelTable::kmeans_assign`].
#[derive(Clone, Debug)]
pub struct CentroidPanels<'a> {
    centroids: &'a [f32],
    k: usize,
    dim: usize,
    panels: Vec<f32>,
    norms: Vec<f32>,
    max_norm: f64,
}

impl KernelTable {
    /// Arranges `centroids` `[k, dim]` for assignment.
    ///
    /// # Panics
    /// If there is no centroid, or the length does not fit.
    pub fn centroid_panels<'a>(&self, centroids: &'a [f32], k: usize, dim: usize) -> CentroidPanels<'a> {
        assert!(k > 0 && centroids.len() == k * dim, "centroid_panels: {} values for {k} x {dim}", centroids.len());
        let padded = k.next_multiple_of(PANEL);
        let (mut panels, mut norms, mut max_norm) = (vec![0.0; padded * dim], vec![0.0; padded], 0.0);
        // SAFETY: `centroids` holds `k * dim` floats; the outputs hold `k` rounded up to whole panels.
        unsafe {
            let (panels, norms) = (panels.as_mut_ptr(), norms.as_mut_ptr());
            (self.kmeans.panels)(centroids.as_ptr(), k, dim, panels, norms, &mut max_norm);
        }
        CentroidPanels { centroids, k, dim, panels, norms, max_norm }
    }

    /// The nearest centroid of each point `[n, dim]` and the squared distance to it. The label is the minimum of the
    /// distances in f64, the lowest index on a tie; a point with NaN gets label 0 and distance NaN.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn kmeans_assign(
        &self,
        points: &[f32],
        centroids: &CentroidPanels<'_>,
        labels: &mut [u32],
        distances: &mut [f32],
    ) {
        let (n, k, dim) = (labels.len(), centroids.k, centroids.dim);
        assert!(points.len() == n * dim && distances.len() == n, "kmeans_assign: lengths");
        let mut scratch = vec![0.0f32; POINTS * k.next_multiple_of(PANEL)];
        // SAFETY: all lengths were checked here or by `centroid_panels`.
        unsafe {
            (self.kmeans.assign)(
                points.as_ptr(),
                n,
                dim,
                centroids.centroids.as_ptr(),
                k,
                centroids.panels.as_ptr(),
                centroids.norms.as_ptr(),
                centroids.max_norm,
                scratch.as_mut_ptr(),
                labels.as_mut_ptr(),
                distances.as_mut_ptr(),
            );
        }
    }

    /// Adds each point `[n, dim]` to the f64 sum `[k, dim]` of its label, and one to the label's count.
    ///
    /// # Panics
    /// If the lengths do not fit or a label is `counts.len()` or more.
    pub fn kmeans_sums(&self, points: &[f32], dim: usize, labels: &[u32], sums: &mut [f64], counts: &mut [u64]) {
        assert!(points.len() == labels.len() * dim && sums.len() == counts.len() * dim, "kmeans_sums: lengths");
        assert!(labels.iter().all(|&label| (label as usize) < counts.len()), "kmeans_sums: label out of range");
        // SAFETY: the lengths and every label were checked.
        unsafe {
            let (sums, counts) = (sums.as_mut_ptr(), counts.as_mut_ptr());
            (self.kmeans.sums)(points.as_ptr(), labels.len(), dim, labels.as_ptr(), sums, counts);
        }
    }
}
