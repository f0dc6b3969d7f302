//! Clusters of points, of training windows and of parameters.

mod balance;
mod data;
mod distance;
mod kmeans;
mod parameters;
mod permutation;
mod seeding;
mod suggestion;
mod window_embedding;

pub use data::{BatchStrategy, DataClustering, WindowBatch};
pub use kmeans::{ClusterInfo, KMeans, KMeansOptions};
pub use parameters::{ClusterBits, ClusteredWeights, ParameterClustering};
pub use suggestion::suggest_clusters;
pub use window_embedding::WindowEmbedding;
