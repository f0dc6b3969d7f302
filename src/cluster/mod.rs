//! Clusters of data and parameters.

mod assignment;
mod kmeans;

pub use kmeans::{ClusterInfo, KMeans, KMeansOptions};
