//! Rules from texts.

use tollgate::rules::RuleSet;
use tollgate::rules::compile::{self, Options};
use tollgate::rules::file::SourceFile;

/// Compiles files given as name and text; the error is the report as a person reads it.
pub(crate) fn compile(files: &[(String, String)], merge_domains: bool) -> Result<RuleSet, String> {
    let files: Vec<SourceFile> = files
        .iter()
        .map(|(name, text)| SourceFile {
            name: name.clone(),
            text: text.clone(),
        })
        .collect();
    let options = Options {
        merge_domains,
        lints: false,
    };
    compile::compile(&files, options).map_err(|report| report.to_string())
}
