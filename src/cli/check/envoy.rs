//! `--envoy`: the rules held against what an Envoy of a given configuration can ask.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{Checked, count};
use crate::cli::say;
use crate::envoy::{Configuration, Rules, unfed};
use crate::rules::RuleSet;
use crate::rules::diagnostic::Report;
use crate::rules::file::{MAX_BYTES, SourceFile};

/// A directory's rules and the files that they are from.
pub(super) type Set = (RuleSet, Vec<SourceFile>);

/// Adds to each directory's report what is doubtful of its rules, and a report for each configuration. The error is that of
/// reading.
pub(super) fn hold(
    paths: &[PathBuf],
    all: &mut Vec<Checked>,
    sets: &[Option<Set>],
) -> Result<(), String> {
    let mut configurations = Vec::new();
    let mut reports = Vec::new();
    for path in paths {
        let text = read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let name = path.display().to_string();
        match Configuration::read(&name, &text) {
            Ok(configuration) => {
                reports.push(of_configuration(&configuration, text, sets));
                configurations.push(configuration);
            }
            Err(report) => reports.push(Checked {
                dir: PathBuf::new(),
                shown: path.clone(),
                report,
                what: None,
                rules: None,
            }),
        }
    }
    // One that cannot be read may feed any rule.
    let is_whole = configurations.len() == paths.len();
    let any = is_whole && !configurations.is_empty();
    for (checked, set) in all.iter_mut().zip(sets).filter(|_| any) {
        let Some((set, files)) = set else { continue };
        let mut found = std::mem::take(&mut checked.report.diagnostics);
        found.extend(unfed(&configurations, Rules { set, files }));
        checked.report = Report::new(found, files);
    }
    all.extend(reports);
    Ok(())
}

fn of_configuration(configuration: &Configuration, text: String, sets: &[Option<Set>]) -> Checked {
    let file = SourceFile {
        name: configuration.name.clone(),
        text,
    };
    let shapes = configuration.shapes();
    for why in &shapes.open {
        say(&format!(
            "{}: rules that no action feeds are not looked for: {why}",
            file.name
        ));
    }
    let mut found = configuration.warnings.diagnostics.clone();
    // Rules that cannot be read may answer anything.
    if sets.iter().all(Option::is_some) {
        let rules = sets
            .iter()
            .flatten()
            .map(|(set, files)| Rules { set, files });
        let rules: Vec<Rules<'_>> = rules.collect();
        found.extend(configuration.unanswered(&file, &rules));
    }
    let listeners = count(configuration.listeners().len(), "listener");
    let descriptors = count(shapes.shapes.len(), "descriptor");
    Checked {
        dir: PathBuf::new(),
        shown: PathBuf::from(&file.name),
        report: Report::new(found, std::slice::from_ref(&file)),
        what: Some(format!("{listeners}, {descriptors}")),
        rules: None,
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let most = MAX_BYTES as u64 + 1;
    File::open(path)?.take(most).read_to_string(&mut text)?;
    Ok(text)
}
