//! Nearest centroids, the bounds that spare their search, and sums of clusters (csrc/README.md, "kmeans").

use super::bindings as c;
use super::isa::Isa;
use super::table::KernelTable;

/// Points a kernel works on at once, at most.
const TILE_POINTS: usize = 32;
/// Floats that a kernel may lose to aligning its scratch memory.
const ALIGNMENT: usize = 16;
/// Groups of centroids, at most: one bit each in the kernels.
pub const MAX_GROUPS: usize = 64;
/// Label of a point that has none yet.
pub const NO_LABEL: u32 = u32::MAX;

type Assign = unsafe extern "C" fn(
    *const f32,
    *const f32,
    *const u32,
    usize,
    *const c::hqk_kmeans_centroids,
    *const c::hqk_kmeans_bounds,
    *mut f32,
    *mut u32,
);
type Filter = unsafe extern "C" fn(
    *const f32,
    usize,
    *const c::hqk_kmeans_centroids,
    *const c::hqk_kmeans_bounds,
    *const u32,
    i32,
    *mut u32,
    *mut usize,
);
type Move = unsafe extern "C" fn(*const f32, usize, usize, *const u32, *const u32, *mut f64, *mut i64, *mut u8);

/// The k-means family of one ISA.
#[derive(Clone, Copy, Debug)]
pub(super) struct KMeansKernels {
    pack: unsafe extern "C" fn(*const f32, usize, usize, usize, *mut f32, *mut f32, *mut f64),
    norms: unsafe extern "C" fn(*const f32, usize, usize, *mut f32),
    assign: Assign,
    filter: Filter,
    distances: unsafe extern "C" fn(*const f32, usize, usize, *const f32, *const u32, *mut f32),
    nearer: unsafe extern "C" fn(*const f32, usize, usize, *const f32, u32, *const f32, *mut u32, *mut f32),
    moves: Move,
}

impl KMeansKernels {
    pub(super) fn for_isa(isa: Isa) -> Self {
        let mut kernels = KMeansKernels {
            pack: c::hqk_kmeans_pack_portable,
            norms: c::hqk_kmeans_norms_portable,
            assign: c::hqk_kmeans_assign_portable,
            filter: c::hqk_kmeans_filter_portable,
            distances: c::hqk_kmeans_distances_portable,
            nearer: c::hqk_kmeans_nearer_portable,
            moves: c::hqk_kmeans_move_portable,
        };
        #[cfg(hqk_avx2)]
        if isa.includes(Isa::Avx2) {
            kernels = KMeansKernels {
                pack: c::hqk_kmeans_pack_avx2,
                norms: c::hqk_kmeans_norms_avx2,
                assign: c::hqk_kmeans_assign_avx2,
                filter: c::hqk_kmeans_filter_avx2,
                distances: c::hqk_kmeans_distances_avx2,
                nearer: c::hqk_kmeans_nearer_avx2,
                moves: c::hqk_kmeans_move_avx2,
            };
        }
        #[cfg(hqk_avx512)]
        if isa.includes(Isa::Avx512) {
            kernels = KMeansKernels {
                pack: c::hqk_kmeans_pack_avx512,
                norms: c::hqk_kmeans_norms_avx512,
                assign: c::hqk_kmeans_assign_avx512,
                filter: c::hqk_kmeans_filter_avx512,
                distances: c::hqk_kmeans_distances_avx512,
                nearer: c::hqk_kmeans_nearer_avx512,
                moves: c::hqk_kmeans_move_avx512,
            };
        }
        #[cfg(hqk_neon)]
        if isa.includes(Isa::Neon) {
            kernels = KMeansKernels {
                pack: c::hqk_kmeans_pack_neon,
                norms: c::hqk_kmeans_norms_neon,
                assign: c::hqk_kmeans_assign_neon,
                filter: c::hqk_kmeans_filter_neon,
                distances: c::hqk_kmeans_distances_neon,
                nearer: c::hqk_kmeans_nearer_neon,
                moves: c::hqk_kmeans_move_neon,
            };
        }
        let _ = isa;
        kernels
    }
}

/// Centroids `[k, dim]` arranged for [`KernelTable::kmeans_assign`] of the same table.
#[derive(Clone, Debug)]
pub struct PackedCentroids<'a> {
    centroids: &'a [f32],
    k: usize,
    dim: usize,
    groups: usize,
    packed: Vec<f32>,
    half_norms: Vec<f32>,
    max_norm: f64,
}

impl PackedCentroids<'_> {
    /// The centroids of a group, numbered on end: `k` split as evenly as it comes, the larger parts first.
    pub fn group(&self, group: usize) -> std::ops::Range<usize> {
        let start = |index: usize| self.k / self.groups * index + index.min(self.k % self.groups);
        start(group)..start(group + 1)
    }

    fn to_c(&self) -> c::hqk_kmeans_centroids {
        c::hqk_kmeans_centroids {
            centroids: self.centroids.as_ptr(),
            k: self.k,
            dim: self.dim,
            groups: self.groups,
            packed: self.packed.as_ptr(),
            half_norms: self.half_norms.as_ptr(),
            max_norm: self.max_norm,
        }
    }
}

/// Bounds on the distances of points to centroids, kept against the way the centroids have gone.
#[derive(Debug)]
pub struct DistanceBounds<'a> {
    /// At most how far the own centroid is, less what it had moved, `[n]`.
    pub upper: &'a mut [f32],
    /// At least how far every other one is, plus what the farthest-moving ones had moved, `[n]`.
    pub lower: &'a mut [f32],
    /// The same for each group, `[n, groups]`; empty if there is one group.
    pub group_lower: &'a mut [f32],
    /// How far each centroid has moved, `[k]`.
    pub moved: &'a [f32],
    /// Sum of the farthest moves within each group, `[groups]`.
    pub group_moved: &'a [f32],
    /// Sum of the farthest moves.
    pub most_moved: f32,
}

impl DistanceBounds<'_> {
    /// The bounds of a range of the points.
    pub fn part(&mut self, range: std::ops::Range<usize>) -> DistanceBounds<'_> {
        let groups = self.group_moved.len();
        let in_groups = range.start * groups..range.end * groups;
        DistanceBounds {
            upper: &mut self.upper[range.clone()],
            lower: &mut self.lower[range],
            group_lower: if groups > 1 { &mut self.group_lower[in_groups] } else { &mut [] },
            moved: self.moved,
            group_moved: self.group_moved,
            most_moved: self.most_moved,
        }
    }

    fn as_c(&mut self, n: usize, to: &PackedCentroids<'_>) -> c::hqk_kmeans_bounds {
        let per_group = if to.groups > 1 { n * to.groups } else { self.group_lower.len() };
        assert!(self.upper.len() == n && self.lower.len() == n && self.group_lower.len() == per_group, "kmeans bounds");
        assert!(self.moved.len() == to.k && self.group_moved.len() == to.groups, "kmeans bounds: ways");
        c::hqk_kmeans_bounds {
            upper: self.upper.as_mut_ptr(),
            lower: self.lower.as_mut_ptr(),
            group_lower: self.group_lower.as_mut_ptr(),
            moved: self.moved.as_ptr(),
            group_moved: self.group_moved.as_ptr(),
            most_moved: self.most_moved,
        }
    }
}

impl KernelTable {
    /// Arranges `centroids` `[k, dim]` for assignment, in `groups` of neighbouring numbers.
    ///
    /// # Panics
    /// If there is no centroid, the length does not fit, or `groups` is not 1 to `k` and at most 64.
    pub fn pack_centroids<'a>(&self, centroids: &'a [f32], k: usize, dim: usize, groups: usize) -> PackedCentroids<'a> {
        assert!(k > 0 && centroids.len() == k * dim, "pack_centroids: {} values for {k} x {dim}", centroids.len());
        assert!((1..=k.min(MAX_GROUPS)).contains(&groups), "pack_centroids: {groups} groups of {k}");
        let (mut packed, mut half_norms, mut max_norm) = (vec![0.0; k * dim], vec![0.0; k], 0.0);
        // SAFETY: `centroids` and `packed` hold `k * dim` floats, `half_norms` `k`.
        unsafe {
            let (packed, half_norms) = (packed.as_mut_ptr(), half_norms.as_mut_ptr());
            (self.kmeans.pack)(centroids.as_ptr(), k, dim, groups, packed, half_norms, &mut max_norm);
        }
        PackedCentroids { centroids, k, dim, groups, packed, half_norms, max_norm }
    }

    /// Squared norms of points `[n, dim]`: f64 sums, rounded.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn kmeans_norms(&self, points: &[f32], dim: usize, norms: &mut [f32]) {
        assert_eq!(points.len(), norms.len() * dim, "kmeans_norms: lengths");
        // SAFETY: the lengths were checked.
        unsafe { (self.kmeans.norms)(points.as_ptr(), norms.len(), dim, norms.as_mut_ptr()) };
    }

    /// The nearest centroid of each point `[n, dim]`, or of those that `rows` names; `norms` as
    /// [`KernelTable::kmeans_norms`] gives. The label is the minimum of the distances in f64, the lowest index on a tie;
    /// a point with NaN gets label 0. With `bounds`, groups they rule out are passed over (a label below `k` must be
    /// the one `bounds` speak of) and the bounds of these points are made anew. `scratch` grows as needed.
    ///
    /// # Panics
    /// If the lengths do not fit or a row is not a point.
    #[allow(clippy::too_many_arguments)]
    pub fn kmeans_assign(
        &self,
        points: &[f32],
        norms: &[f32],
        rows: Option<&[u32]>,
        to: &PackedCentroids<'_>,
        bounds: Option<&mut DistanceBounds<'_>>,
        scratch: &mut Vec<f32>,
        labels: &mut [u32],
    ) {
        let n = labels.len();
        assert!(points.len() == n * to.dim && norms.len() == n, "kmeans_assign: lengths");
        assert!(rows.is_none_or(|rows| rows.iter().all(|&row| (row as usize) < n)), "kmeans_assign: rows");
        let bounds = bounds.map(|bounds| bounds.as_c(n, to));
        scratch.resize(ALIGNMENT + TILE_POINTS * (to.dim + to.k), 0.0);
        // SAFETY: all lengths and rows were checked here, in `as_c` or in `pack_centroids`; a null bounds pointer says
        // that there are none, a null rows pointer that all points are meant.
        unsafe {
            (self.kmeans.assign)(
                points.as_ptr(),
                norms.as_ptr(),
                rows.map_or(std::ptr::null(), <[u32]>::as_ptr),
                rows.map_or(n, <[u32]>::len),
                &to.to_c(),
                bounds.as_ref().map_or(std::ptr::null(), std::ptr::from_ref),
                scratch.as_mut_ptr(),
                labels.as_mut_ptr(),
            );
        }
    }

    /// The points whose label `bounds` leave in doubt, ascending in `rows`. With `measure` the distance to the own
    /// centroid is measured where that may settle it.
    ///
    /// # Panics
    /// If the lengths do not fit or a label is not below `k`.
    pub fn kmeans_filter(
        &self,
        points: &[f32],
        to: &PackedCentroids<'_>,
        bounds: &mut DistanceBounds<'_>,
        labels: &[u32],
        measure: bool,
        rows: &mut Vec<u32>,
    ) {
        let n = labels.len();
        assert!(points.len() == n * to.dim && n <= u32::MAX as usize, "kmeans_filter: lengths");
        assert!(labels.iter().all(|&label| (label as usize) < to.k), "kmeans_filter: label out of range");
        rows.resize(n, 0);
        let (bounds, mut count) = (bounds.as_c(n, to), 0);
        // SAFETY: lengths and labels were checked; `rows` has room for every point.
        unsafe {
            let (labels, rows) = (labels.as_ptr(), rows.as_mut_ptr());
            (self.kmeans.filter)(points.as_ptr(), n, &to.to_c(), &bounds, labels, measure.into(), rows, &mut count);
        }
        rows.truncate(count);
    }

    /// Squared distance of each point `[n, dim]` to the centroid of its label, in f64, rounded.
    ///
    /// # Panics
    /// If the lengths do not fit or a label is no centroid.
    pub fn kmeans_distances(
        &self,
        points: &[f32],
        dim: usize,
        centroids: &[f32],
        labels: &[u32],
        distances: &mut [f32],
    ) {
        let n = labels.len();
        assert!(points.len() == n * dim && distances.len() == n, "kmeans_distances: lengths");
        let fits = |&label: &u32| label as usize * dim + dim <= centroids.len();
        assert!(labels.iter().all(fits), "kmeans_distances: label out of range");
        // SAFETY: the lengths and every label were checked.
        unsafe {
            let (centroids, labels) = (centroids.as_ptr(), labels.as_ptr());
            (self.kmeans.distances)(points.as_ptr(), n, dim, centroids, labels, distances.as_mut_ptr());
        }
    }

    /// Where `centroid` is nearer to a point `[n, dim]` than `distances` says, writes the squared distance and the
    /// label `number`. A point whose distance is below `reach` of its label is passed over.
    ///
    /// # Panics
    /// If the lengths do not fit or a label is `reach.len()` or more.
    pub fn kmeans_nearer(
        &self,
        points: &[f32],
        centroid: &[f32],
        number: u32,
        reach: &[f32],
        labels: &mut [u32],
        distances: &mut [f32],
    ) {
        let (n, dim) = (labels.len(), centroid.len());
        assert!(points.len() == n * dim && distances.len() == n, "kmeans_nearer: lengths");
        assert!(labels.iter().all(|&label| (label as usize) < reach.len()), "kmeans_nearer: label out of range");
        // SAFETY: the lengths and every label were checked.
        unsafe {
            let (labels, distances) = (labels.as_mut_ptr(), distances.as_mut_ptr());
            let (points, centroid) = (points.as_ptr(), centroid.as_ptr());
            (self.kmeans.nearer)(points, n, dim, centroid, number, reach.as_ptr(), labels, distances);
        }
    }

    /// Carries each point `[n, dim]` whose label differs from the f64 sum `[k, dim]` and count of `before` (none for
    /// [`NO_LABEL`]) to those of `after`, and marks both in `touched`.
    ///
    /// # Panics
    /// If the lengths do not fit or a label is `counts.len()` or more.
    #[allow(clippy::too_many_arguments)]
    pub fn kmeans_move(
        &self,
        points: &[f32],
        dim: usize,
        before: &[u32],
        after: &[u32],
        sums: &mut [f64],
        counts: &mut [i64],
        touched: &mut [u8],
    ) {
        let (n, k) = (after.len(), counts.len());
        assert!(points.len() == n * dim && before.len() == n, "kmeans_move: lengths");
        assert!(sums.len() == k * dim && touched.len() == k, "kmeans_move: clusters");
        let fits = |label: u32| (label as usize) < k;
        assert!(after.iter().all(|&label| fits(label)), "kmeans_move: label out of range");
        assert!(before.iter().all(|&label| fits(label) | (label == NO_LABEL)), "kmeans_move: label out of range");
        // SAFETY: the lengths and every label were checked.
        unsafe {
            let (before, after) = (before.as_ptr(), after.as_ptr());
            let (sums, counts) = (sums.as_mut_ptr(), counts.as_mut_ptr());
            (self.kmeans.moves)(points.as_ptr(), n, dim, before, after, sums, counts, touched.as_mut_ptr());
        }
    }
}
