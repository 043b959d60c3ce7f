//! The lease by which the nodes agree who may be the home of a service.

pub mod etcd;
mod http;
pub mod store;
