//! Customers of a shop, for the light load of `shop`, for `shop load` and for `shop faults`.
//!
//! - [`driver`]: they come whether or not the shop keeps up (an open loop)
//! - [`visit`]: one request of one customer
//! - [`seen`]: whether a page is older than a change that its reader could know of

pub(crate) mod driver;
pub(crate) mod seen;
pub(crate) mod visit;
