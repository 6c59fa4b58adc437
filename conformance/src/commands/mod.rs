//! The suites as commands: arguments, and what is printed. Each says whether something failed.

pub(crate) mod appliance;
pub(crate) mod hostile;
pub(crate) mod images;
pub(crate) mod registry;
