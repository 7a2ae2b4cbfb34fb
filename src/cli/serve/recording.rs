//! Decisions in a file: from the settings to the recorder and its writer.

use std::sync::Arc;

use super::Failed;
use crate::capture::writer::{Target, Writer};
use crate::capture::{Header, Recorder, Sample};
use crate::engine::Engine;
use crate::settings::Settings;
use tracing::info;

/// Begins to record the decisions of `engine`, if the settings say so.
pub(super) fn start(settings: &Settings, engine: &Engine) -> Result<Option<Writer>, Failed> {
    let Some(path) = settings.record.path() else {
        return Ok(None);
    };
    let sample = Sample::new(settings.record.record_sample).unwrap_or(Sample::ALL);
    let decisions = engine.settings();
    let header = Header {
        tollgate: env!("CARGO_PKG_VERSION").to_owned(),
        began: 0,
        sample: sample.rate(),
        store: engine.store().name().to_owned(),
        stop_increment: decisions.stop_increment,
        shadow_mode: decisions.shadow_mode,
        quota_mode: decisions.quota_mode,
    };
    let target = Target {
        path: path.to_owned(),
        max_bytes: settings.record.record_max_bytes,
    };
    let recorder = Arc::new(Recorder::new(sample));
    let writer = Writer::start(target, header, Arc::clone(&recorder)).map_err(|error| {
        let path = path.display();
        Failed::Run(format!(
            "cannot record in {path}: {error} (variable RECORD)"
        ))
    })?;
    engine.record(recorder);
    let share = sample.rate() * 100.0;
    info!(
        "recording the decisions of {share} % of the subjects in {}",
        path.display()
    );
    Ok(Some(writer))
}
