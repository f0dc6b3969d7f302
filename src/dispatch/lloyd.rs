//! Lloyd's iteration on the context's threads.
#![forbid(unsafe_code)]

use super::kmeans::BLOCK_POINTS;
use super::{Context, Operation, Size};
use crate::kernels::{DistanceBounds, KernelTable, MAX_GROUPS, NO_LABEL, PackedCentroids};

/// Blocks of [`Lloyd`]: at most so many, of at least so many points and twice the number of clusters, so that their sums
/// cost little beside the search. The split depends on the shape alone, never on the threads.
const MOST_BLOCKS: usize = 64;
const LEAST_BLOCK_POINTS: usize = 640;
/// Bytes of points searched before their sums are added: they are still in the second-level cache then.
const FUSED_BYTES: usize = 1 << 18;
/// Points a kernel searches at once, at most: pieces are whole numbers of them.
const TILE_POINTS: usize = 32;
/// Centroids of a group that bounds are kept for: what one tile of the widest kernel searches at once.
const GROUP_CENTROIDS: usize = 12;
/// While bounds do not pay, every so many-th block keeps them all the same, to tell when they would.
const PROBE_EVERY: usize = 16;
/// From this number of coordinates on, keeping bounds costs next to nothing beside a search: all blocks keep them, to use
/// them as soon as they pay.
const KEPT_COORDINATES: usize = 128;
/// Bounds pay where they leave fewer than this share of the points to search; they are given up above the second.
const PAYING_SHARE: f64 = 0.6;
const FAILING_SHARE: f64 = 0.8;
/// From this number of centroids on, measuring the distance to the own one pays for what it spares.
const MEASURED_CENTROIDS: usize = 24;

/// What one block of points owns: its share of the sums, and memory for the kernels.
#[derive(Clone, Debug)]
struct Block {
    /// Sums `[k, dim]` and counts `[k]` of the points that came, less those that left, in the last assignment.
    sums: Vec<f64>,
    counts: Vec<i64>,
    /// Clusters of which that is not zero.
    touched: Vec<u8>,
    changed: usize,
    /// Whether the points have bounds that hold; how many of how many points were searched where they did.
    bounded: bool,
    searched: [usize; 2],
    after: Vec<u32>,
    /// Points to search, ascending, and by label; where each label begins.
    rows: Vec<u32>,
    by_label: Vec<u32>,
    starts: Vec<usize>,
    scratch: Vec<f32>,
}

/// Points under Lloyd's iteration: labels, and the sums of the clusters, carried from one assignment to the next by the
/// points that moved. Labels are those a full search in f64 gives (the lowest index on ties), with pruning or without,
/// on every ISA; sums run over fixed blocks in a fixed order: the same bits at every number of threads.
///
/// Pruning keeps bounds on the distances (Hamerly 2010; for groups of centroids, Ding et al. 2015) and searches only
/// where they leave a doubt, as long as that is less work: a few blocks of points tell. It takes
/// `4 n (2 + ceil(k / 12))` bytes at most.
#[derive(Debug)]
pub struct Lloyd<'a> {
    context: Context,
    points: &'a [f32],
    dim: usize,
    k: usize,
    groups: usize,
    block_points: usize,
    norms: Vec<f32>,
    labels: Vec<u32>,
    sums: Vec<f64>,
    counts: Vec<i64>,
    blocks: Vec<Block>,
    bounds: Option<Bounds>,
    bounds_pay: bool,
}

/// Bounds of all points, and the way of the centroids since the first assignment.
#[derive(Debug)]
struct Bounds {
    upper: Vec<f32>,
    lower: Vec<f32>,
    group_lower: Vec<f32>,
    /// Centroids of the last assignment; empty before the first.
    centroids: Vec<f32>,
    moved: Vec<f64>,
    group_moved: Vec<f64>,
    most_moved: f64,
}

impl<'a> Lloyd<'a> {
    /// Points `[n, dim]` without labels, for `k` clusters.
    ///
    /// # Panics
    /// If `dim` or `k` is zero, `points` is no multiple of `dim`, or there are 2^32 points or more.
    pub fn new(context: &Context, points: &'a [f32], dim: usize, k: usize, pruning: bool) -> Self {
        assert!(dim > 0 && k > 0 && points.len().is_multiple_of(dim), "Lloyd: sizes");
        let n = points.len() / dim;
        assert!(n < NO_LABEL as usize, "Lloyd: {n} points");
        let groups = if pruning { k.div_ceil(GROUP_CENTROIDS).min(MAX_GROUPS).min(dim.div_ceil(4)) } else { 1 };
        let block_points = n.div_ceil(MOST_BLOCKS).max(LEAST_BLOCK_POINTS).max(2 * k);
        let block = Block {
            sums: vec![0.0; k * dim],
            counts: vec![0; k],
            touched: vec![0; k],
            changed: 0,
            bounded: false,
            searched: [0; 2],
            after: Vec::new(),
            rows: Vec::new(),
            by_label: Vec::new(),
            starts: Vec::new(),
            scratch: Vec::new(),
        };
        let mut norms = vec![0.0; n];
        let blocks = norms.chunks_mut(BLOCK_POINTS).zip(points.chunks(BLOCK_POINTS * dim));
        context.for_each(blocks, |(norms, points)| context.kernels().kmeans_norms(points, dim, norms));
        let bounds = pruning.then(|| Bounds {
            upper: vec![f32::INFINITY; n],
            lower: vec![0.0; n],
            group_lower: vec![0.0; if groups > 1 { n * groups } else { 0 }],
            centroids: Vec::new(),
            moved: vec![0.0; k],
            group_moved: vec![0.0; groups],
            most_moved: 0.0,
        });
        Lloyd {
            context: context.clone(),
            points,
            dim,
            k,
            groups,
            block_points,
            norms,
            labels: vec![NO_LABEL; n],
            sums: vec![0.0; k * dim],
            counts: vec![0; k],
            blocks: vec![block; n.div_ceil(block_points)],
            bounds,
            bounds_pay: false,
        }
    }

    /// Gives every point the label of its nearest centroid `[k, dim]`, in one pass together with the sums of the
    /// clusters. Returns how many labels changed.
    ///
    /// # Panics
    /// If the length does not fit.
    pub fn assign(&mut self, centroids: &[f32]) -> usize {
        let Lloyd { dim, k, groups, block_points, points, .. } = *self;
        let context = self.context.clone();
        let size = Size { rows: points.len() / dim, cols: dim, depth: k };
        let call = context.call(Operation::KmeansIteration, size.work(Operation::KmeansIteration));
        let kernels = call.kernels;
        let packed = kernels.pack_centroids(centroids, k, dim, groups);
        let bounds_pay = self.bounds_pay;
        let to_f32 = |ways: &[f64]| -> Vec<f32> { ways.iter().map(|&way| way as f32).collect() };
        let (mut ways, mut stores) = ((Vec::new(), Vec::new(), 0.0), None);
        if let Some(bounds) = &mut self.bounds {
            bounds.follow(&self.context, &packed, centroids, dim);
            ways = (to_f32(&bounds.moved), to_f32(&bounds.group_moved), bounds.most_moved as f32);
            let per_group = if groups > 1 { block_points * groups } else { 1 };
            let upper = bounds.upper.chunks_mut(block_points);
            let group_lower = bounds.group_lower.chunks_mut(per_group).map(Some).chain(std::iter::repeat_with(|| None));
            stores = Some(upper.zip(bounds.lower.chunks_mut(block_points)).zip(group_lower));
        }
        let stores = stores.into_iter().flatten().map(Some).chain(std::iter::repeat_with(|| None));
        let labels = self.labels.chunks_mut(block_points).zip(self.norms.chunks(block_points));
        let blocks = self.blocks.iter_mut().zip(points.chunks(block_points * dim)).zip(labels).zip(stores);
        let work: Vec<_> = blocks.collect();
        type Stores<'a> = Option<((&'a mut [f32], &'a mut [f32]), Option<&'a mut [f32]>)>;
        type Work<'a> = (((&'a mut Block, &'a [f32]), (&'a mut [u32], &'a [f32])), Stores<'a>);
        let search = |(index, (((block, points), (labels, norms)), stores)): (usize, Work<'_>)| {
            let used = bounds_pay || index % PROBE_EVERY == 0;
            let stores = stores.filter(|_| used || dim >= KEPT_COORDINATES);
            let bounds = stores.map(|((upper, lower), group_lower)| DistanceBounds {
                upper,
                lower,
                group_lower: group_lower.unwrap_or_default(),
                moved: &ways.0,
                group_moved: &ways.1,
                most_moved: ways.2,
            });
            block.clear(dim);
            match bounds {
                Some(mut bounds) if block.bounded && used => {
                    block.search_doubtful(kernels, points, norms, &packed, &mut bounds, labels);
                }
                mut bounds => {
                    // All is searched: what was known leaves nothing out.
                    if let Some(bounds) = &mut bounds {
                        bounds.upper.fill(f32::INFINITY);
                    }
                    block.bounded = bounds.is_some();
                    block.search_all(kernels, points, norms, &packed, bounds, labels);
                }
            }
        };
        context.for_each_if(call.parallel, work.into_iter().enumerate(), search);
        let blocks = &self.blocks;
        let add = |(cluster, (sum, count)): (usize, (&mut [f64], &mut i64))| {
            for block in blocks.iter().filter(|block| block.touched[cluster] != 0) {
                sum.iter_mut().zip(&block.sums[cluster * dim..][..dim]).for_each(|(sum, part)| *sum += part);
                *count += block.counts[cluster];
            }
        };
        context.for_each_if(call.parallel, self.sums.chunks_mut(dim).zip(&mut self.counts).enumerate(), add);
        let [searched, of] = self
            .blocks
            .iter()
            .fold([0, 0], |[searched, of], block| [searched + block.searched[0], of + block.searched[1]]);
        if of > 0 {
            let limit = if bounds_pay { FAILING_SHARE } else { PAYING_SHARE };
            self.bounds_pay = (searched as f64) < limit * of as f64;
        }
        self.blocks.iter().map(|block| block.changed).sum()
    }

    /// Writes the mean of each cluster to `centroids` `[k, dim]`; that of an empty one is left as it is.
    ///
    /// # Panics
    /// If the length does not fit.
    pub fn means(&self, centroids: &mut [f32]) {
        assert_eq!(centroids.len(), self.sums.len(), "Lloyd::means: lengths");
        let clusters = centroids.chunks_exact_mut(self.dim).zip(self.sums.chunks_exact(self.dim));
        for ((mean, sum), &count) in clusters.zip(&self.counts).filter(|(_, count)| **count > 0) {
            mean.iter_mut().zip(sum).for_each(|(mean, sum)| *mean = (sum / count as f64) as f32);
        }
    }

    /// Gives a point another label than its nearest centroid's.
    ///
    /// # Panics
    /// If there is no such point, it has no label yet, or there is no such cluster.
    pub fn relabel(&mut self, point: usize, label: u32) {
        let values = &self.points[point * self.dim..][..self.dim];
        let (from, to) = (self.labels[point] as usize, label as usize);
        let kernels = self.context.kernels();
        let mut touched = vec![0; self.k];
        let (before, after) = ([self.labels[point]], [label]);
        assert!(from < self.k && to < self.k, "Lloyd::relabel: labels");
        kernels.kmeans_move(values, self.dim, &before, &after, &mut self.sums, &mut self.counts, &mut touched);
        self.labels[point] = label;
        if let Some(bounds) = &mut self.bounds {
            bounds.upper[point] = f32::INFINITY;
            bounds.lower[point] = 0.0;
            if self.groups > 1 {
                bounds.group_lower[point * self.groups..][..self.groups].fill(0.0);
            }
        }
    }

    /// Squared length of each point.
    pub(crate) fn norms(&self) -> &[f32] {
        &self.norms
    }

    /// Label of each point.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Number of points of each cluster.
    pub fn counts(&self) -> &[i64] {
        &self.counts
    }

    /// The labels, without a copy.
    pub fn into_labels(self) -> Vec<u32> {
        self.labels
    }
}

impl Bounds {
    /// Adds the ways of the centroids since the last assignment, if there was one.
    fn follow(&mut self, context: &Context, packed: &PackedCentroids<'_>, centroids: &[f32], dim: usize) {
        if self.centroids.len() == centroids.len() {
            let k = self.moved.len();
            let (numbers, mut squares): (Vec<u32>, _) = ((0..k as u32).collect(), vec![0.0; k]);
            context.kernels().kmeans_distances(centroids, dim, &self.centroids, &numbers, &mut squares);
            // Rounded up: the squares are rounded to f32.
            let ways: Vec<f64> = squares.iter().map(|&s| f64::from(s).sqrt() * (1.0 + 1e-6)).collect();
            let farthest =
                |ways: &[f64]| ways.iter().copied().fold(0.0, |most, way| if way <= most { most } else { way });
            self.moved.iter_mut().zip(&ways).for_each(|(moved, way)| *moved += way);
            for (group, moved) in self.group_moved.iter_mut().enumerate() {
                *moved += farthest(&ways[packed.group(group)]);
            }
            self.most_moved += farthest(&ways);
        }
        self.centroids.clear();
        self.centroids.extend_from_slice(centroids);
    }
}

impl Block {
    /// Sums back to zero where they are not.
    fn clear(&mut self, dim: usize) {
        for (cluster, touched) in self.touched.iter_mut().enumerate().filter(|(_, touched)| **touched != 0) {
            self.sums[cluster * dim..][..dim].fill(0.0);
            self.counts[cluster] = 0;
            *touched = 0;
        }
        self.changed = 0;
        self.searched = [0; 2];
    }

    /// A full search, piece by piece, each piece's points added while they are in the cache.
    fn search_all(
        &mut self,
        kernels: &KernelTable,
        points: &[f32],
        norms: &[f32],
        packed: &PackedCentroids<'_>,
        mut bounds: Option<DistanceBounds<'_>>,
        labels: &mut [u32],
    ) {
        let dim = points.len() / labels.len();
        let piece = (FUSED_BYTES / (4 * dim)).max(1).next_multiple_of(TILE_POINTS);
        self.after.clear();
        self.after.extend_from_slice(labels);
        for first in (0..labels.len()).step_by(piece) {
            let range = first..(first + piece).min(labels.len());
            let points = &points[range.start * dim..range.end * dim];
            let mut part = bounds.as_mut().map(|bounds| bounds.part(range.clone()));
            let (after, norms) = (&mut self.after[range.clone()], &norms[range.clone()]);
            kernels.kmeans_assign(points, norms, None, packed, part.as_mut(), &mut self.scratch, after);
            self.add_changes(kernels, points, dim, range, labels);
        }
        labels.copy_from_slice(&self.after);
    }

    /// A search where the bounds leave a doubt.
    fn search_doubtful(
        &mut self,
        kernels: &KernelTable,
        points: &[f32],
        norms: &[f32],
        packed: &PackedCentroids<'_>,
        bounds: &mut DistanceBounds<'_>,
        labels: &mut [u32],
    ) {
        let (dim, n) = (points.len() / labels.len(), labels.len());
        let measure = self.counts.len() >= MEASURED_CENTROIDS;
        kernels.kmeans_filter(points, packed, bounds, labels, measure, &mut self.rows);
        self.searched = [self.rows.len(), n];
        if self.rows.is_empty() {
            return;
        }
        if self.rows.len() > n / 4 * 3 {
            return self.search_all(kernels, points, norms, packed, Some(bounds.part(0..n)), labels);
        }
        self.sort_rows(labels);
        self.after.clear();
        self.after.extend_from_slice(labels);
        let rows = Some(self.by_label.as_slice());
        kernels.kmeans_assign(points, norms, rows, packed, Some(bounds), &mut self.scratch, &mut self.after);
        self.add_changes(kernels, points, dim, 0..n, labels);
        labels.copy_from_slice(&self.after);
    }

    /// The rows to search by label, ascending within one: neighbours in a tile that share a cluster share the groups that
    /// need a search.
    fn sort_rows(&mut self, labels: &[u32]) {
        let Block { rows, by_label, starts, counts, .. } = self;
        starts.clear();
        starts.resize(counts.len(), 0);
        rows.iter().for_each(|&row| starts[labels[row as usize] as usize] += 1);
        let mut before = 0;
        for start in starts.iter_mut() {
            before += std::mem::replace(start, before);
        }
        by_label.resize(rows.len(), 0);
        for &row in rows.iter() {
            let start = &mut starts[labels[row as usize] as usize];
            by_label[*start] = row;
            *start += 1;
        }
    }

    fn add_changes(
        &mut self,
        kernels: &KernelTable,
        points: &[f32],
        dim: usize,
        range: std::ops::Range<usize>,
        labels: &[u32],
    ) {
        let (before, after) = (&labels[range.clone()], &self.after[range]);
        self.changed += before.iter().zip(after).filter(|(before, after)| before != after).count();
        kernels.kmeans_move(points, dim, before, after, &mut self.sums, &mut self.counts, &mut self.touched);
    }
}
