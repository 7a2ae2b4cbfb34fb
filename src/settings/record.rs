//! What is asked and answered, kept in a file.

use std::path::{Path, PathBuf};

use clap::Args;

use super::values::share;

/// Where decisions are recorded, for `tollgate replay`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Recording")]
pub struct Record {
    /// A file that decisions are recorded in, for `tollgate replay`; what is there already becomes FILE.1
    #[arg(long, env, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// The share of subjects whose decisions are recorded, each subject's all or none
    #[arg(long, env, value_name = "0..1", default_value = "1", value_parser = share)]
    pub record_sample: f64,
    /// The most bytes of FILE and FILE.1 together; at half of it FILE becomes FILE.1, and FILE begins anew
    #[arg(long, env, value_name = "BYTES", default_value = "1073741824", value_parser = clap::value_parser!(u64).range(1 << 22..))]
    pub record_max_bytes: u64,
}

impl Record {
    /// The file, if decisions are recorded.
    pub fn path(&self) -> Option<&Path> {
        let path = self.record.as_deref();
        path.filter(|path| !path.as_os_str().is_empty())
    }
}
