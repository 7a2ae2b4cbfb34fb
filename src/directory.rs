//! What is known of subjects beside the rules, and changes at run time: plans, numbers of their own, grants, lists and bans.
//!
//! It is kept in the store, so that all instances agree, and each instance holds what it needs in memory:
//!
//! - [`standing`]: the plan of a subject, and what it has been given
//! - [`cache`]: the standings that this instance has asked for
//! - [`lists`]: who is let through, refused or banned, whole in every instance
//! - [`follow`]: how a change reaches every instance

pub mod cache;
pub mod follow;
pub mod lists;
pub mod standing;

pub use cache::Directory;
pub use lists::{Item, List, Listed, Lists};
pub use standing::{Grant, Standing};
