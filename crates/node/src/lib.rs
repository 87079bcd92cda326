pub mod addresses;
pub mod agent;
pub mod cgroups;
pub mod container;
pub mod cri_log;
pub mod exec;
pub mod images;
pub mod logs;
mod node_status;
pub mod pidfd;
mod pod;
mod pod_network;
pub mod port_forward;
mod probes;
pub mod shim;
mod sys;
mod volumes;

pub use pod_network::link_prefix;
