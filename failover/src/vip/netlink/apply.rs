//! Reads what a plan starts from, and does its steps.

use super::{Netlink, NetlinkError};
use crate::vip::plan::{Actual, Step};

impl Netlink {
    /// What the kernel has: everything that [`crate::vip::plan::plan`] looks at.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn actual(&self) -> Result<Actual, NetlinkError> {
        let (addresses, routes, rules) = (self.addresses().await?, self.routes().await?, self.rules().await?);
        Ok(Actual { addresses, routes, rules })
    }

    /// Does one step of a plan. What should be removed and is gone already is no error.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn apply(&self, step: &Step) -> Result<(), NetlinkError> {
        match step {
            Step::RemoveRule(rule) => self.remove_rule(rule).await.map(|_| ()),
            Step::RemoveRoute(route) => self.remove_route(route).await.map(|_| ()),
            Step::RemoveAddress(address) => self.remove_address(address).await.map(|_| ()),
            Step::PutAddress(address) => self.put_address(address).await,
            Step::AddRoute(route) => self.add_route(route).await,
            Step::AddRule(rule) => self.add_rule(rule).await,
        }
    }
}
