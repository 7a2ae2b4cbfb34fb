//! The report for people.

use std::fmt::Write;

use super::Args;
use super::chart::{blocks, moment, number, percent, span};
use super::line::{Cell, Line};
use super::run::Outcome;
use super::suggest::Suggestion;
use super::tally::{OfRule, Tally, share};

/// How wide a time line is.
const WIDTH: usize = 60;

/// The longest name in a table; of a longer one the end is left out.
const LONGEST: usize = 48;

/// Writes the report, with colour if it may have some.
pub(super) fn report(
    args: &Args,
    outcome: &Outcome,
    suggested: Option<&[Suggestion]>,
    colour: bool,
) -> String {
    let mut to = String::new();
    // Writing to a String cannot fail.
    let _ = head(&mut to, args, outcome);
    let _ = totals(&mut to, &outcome.tally, colour);
    let _ = rules(&mut to, args, &outcome.tally, colour);
    let _ = lines(&mut to, args, &outcome.tally, colour);
    let _ = subjects(&mut to, args, &outcome.tally, colour);
    let _ = examples(&mut to, &outcome.tally, colour);
    if let (Some(target), Some(suggested)) = (args.target, suggested) {
        let _ = suggestions(&mut to, target, suggested, colour);
    }
    let _ = notes(&mut to, outcome, colour);
    to
}

fn title(text: &str, colour: bool) -> String {
    match colour {
        true => format!("\n\x1b[1m{text}\x1b[0m\n"),
        false => format!("\n{text}\n"),
    }
}

fn head(to: &mut String, args: &Args, outcome: &Outcome) -> std::fmt::Result {
    let tally = &outcome.tally;
    let files: Vec<String> = args
        .traffic
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    writeln!(to, "traffic  {}", files.join(", "))?;
    if let Some((first, last)) = tally.span {
        let (seen, long) = (number(tally.seen), span(last.since(first)));
        writeln!(
            to,
            "         {seen} requests in {long}, from {} UTC",
            moment(first)
        )?;
    }
    let sample = outcome.header.as_ref().map_or(1.0, |header| header.sample);
    if sample < 1.0 {
        let times = 1.0 / sample;
        writeln!(
            to,
            "         of {} of the subjects: about everybody is {times:.0} times as many",
            percent(sample)
        )?;
    }
    let (domains, rules) = outcome.rules;
    let (domains, rules) = (plural(domains, "domain"), plural(rules, "rule"));
    writeln!(to, "rules    {}: {domains}, {rules}", args.rules.display())
}

fn plural(count: usize, what: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {what}{ending}")
}

fn totals(to: &mut String, tally: &Tally, colour: bool) -> std::fmt::Result {
    let total = &tally.total;
    to.push_str(&title("decisions", colour));
    for (name, count) in [
        ("as before", total.agree()),
        ("newly refused", total.newly_refused),
        ("newly admitted", total.newly_admitted),
        ("refused before", total.before),
        ("refused now", total.now),
    ] {
        let part = percent(share(count, total.asked));
        writeln!(to, "  {name:<16}{:>14}  {part:>9}", number(count))?;
    }
    Ok(())
}

/// The rules that refuse something, those with most differences first.
fn telling(tally: &Tally) -> Vec<&OfRule> {
    let mut rules: Vec<&OfRule> = tally.rules.iter().collect();
    rules.retain(|of| of.counts.before + of.counts.now > 0);
    rules.sort_by_key(|of| {
        let counts = &of.counts;
        std::cmp::Reverse((
            counts.newly_refused + counts.newly_admitted,
            counts.now,
            counts.before,
        ))
    });
    rules
}

fn name(of: &OfRule) -> String {
    cut(&format!("{} {}", of.domain, of.name))
}

fn cut(text: &str) -> String {
    match text.chars().count() > LONGEST {
        true => text.chars().take(LONGEST - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

fn rules(to: &mut String, args: &Args, tally: &Tally, colour: bool) -> std::fmt::Result {
    let all = telling(tally);
    if all.is_empty() {
        return writeln!(to, "\nno rule refuses anything, before or now");
    }
    to.push_str(&title("by rule", colour));
    let wide = all
        .iter()
        .take(args.top.into())
        .map(|of| name(of).chars().count());
    let wide = wide.max().unwrap_or_default().max(4);
    writeln!(
        to,
        "  {:<wide$}  {:>12}  {:>12}  {:>12}  {:>12}  {:>12}",
        "rule", "requests", "before", "now", "+ refused", "+ admitted"
    )?;
    for of in all.iter().take(args.top.into()) {
        let counts = &of.counts;
        let [asked, before, now, refused, admitted] = [
            counts.asked,
            counts.before,
            counts.now,
            counts.newly_refused,
            counts.newly_admitted,
        ]
        .map(number);
        write!(
            to,
            "  {:<wide$}  {asked:>12}  {before:>12}  {now:>12}  {refused:>12}  {admitted:>12}",
            name(of)
        )?;
        match &of.source {
            Some(source) => writeln!(to, "  {source}")?,
            None => writeln!(to, "  decided nothing now")?,
        }
    }
    if let Some(left) = all
        .len()
        .checked_sub(args.top.into())
        .filter(|left| *left > 0)
    {
        writeln!(to, "  and {} more; --top names more", plural(left, "rule"))?;
    }
    Ok(())
}

fn lines(to: &mut String, args: &Args, tally: &Tally, colour: bool) -> std::fmt::Result {
    let cells = tally.line.cells.len();
    if cells < 2 {
        return Ok(());
    }
    let per_column = cells.div_ceil(WIDTH) as u64;
    let column = crate::time::Micros::new(tally.scale.length().get() * per_column);
    let when = format!(
        "time line, from {} UTC, {} a column",
        moment(tally.scale.start()),
        span(column)
    );
    to.push_str(&title(&when, colour));
    let row = |to: &mut String, what: &str, line: &Line, count: fn(&Cell) -> u64| {
        let mut numbers: Vec<u64> = line.cells.iter().map(count).collect();
        numbers.resize(cells, 0);
        let sums = numbers
            .chunks(cells.div_ceil(WIDTH))
            .map(|chunk| chunk.iter().sum());
        let most: u64 = sums.max().unwrap_or_default();
        let chart = blocks(&numbers, WIDTH);
        match most {
            0 => writeln!(to, "  {what:<16}{chart}"),
            most => writeln!(to, "  {what:<16}{chart}  at most {}", number(most)),
        }
    };
    row(to, "requests", &tally.line, |cell| cell.asked)?;
    row(to, "refused before", &tally.line, |cell| cell.before)?;
    row(to, "refused now", &tally.line, |cell| cell.now)?;
    for of in telling(tally).into_iter().take(args.top.into()) {
        let Some(line) = &of.line else {
            continue;
        };
        writeln!(to, "  {}", name(of))?;
        row(to, "  before", line, |cell| cell.before)?;
        row(to, "  now", line, |cell| cell.now)?;
    }
    Ok(())
}

fn subjects(to: &mut String, args: &Args, tally: &Tally, colour: bool) -> std::fmt::Result {
    let summary = tally.subjects.summary(args.top.into());
    if summary.rows.is_empty() {
        return Ok(());
    }
    to.push_str(&title("newly refused most", colour));
    for row in &summary.rows {
        let (count, error) = (row.hits / 1000, row.error / 1000);
        let doubt = match error {
            0 => String::new(),
            error => format!(" (at least {})", number(count - error)),
        };
        writeln!(to, "  {:>12}  {}{doubt}", number(count), row.subject)?;
    }
    Ok(())
}

fn examples(to: &mut String, tally: &Tally, colour: bool) -> std::fmt::Result {
    if tally.examples.is_empty() {
        return Ok(());
    }
    to.push_str(&title("the first differences", colour));
    for of in &tally.examples {
        let limit = of.limit.as_ref().map(|limit| format!(" ({limit})"));
        let what = match of.refused {
            true => format!("refused by {}{}", of.rule, limit.unwrap_or_default()),
            false => format!("admitted; {} refused it", of.rule),
        };
        writeln!(
            to,
            "  {}  {} {}  {what}",
            moment(of.at),
            of.domain,
            of.asked
        )?;
    }
    Ok(())
}

fn suggestions(
    to: &mut String,
    target: f64,
    suggested: &[Suggestion],
    colour: bool,
) -> std::fmt::Result {
    let head = format!(
        "limits that refuse at most {} of what they are asked",
        percent(target)
    );
    to.push_str(&title(&head, colour));
    if suggested.is_empty() {
        return writeln!(to, "  no limit was asked for anything");
    }
    let names = |of: &Suggestion| {
        let plan = of.plan.as_ref().map(|plan| format!(", plan {plan}"));
        cut(&format!(
            "{} {}{}",
            of.domain,
            of.rule,
            plan.unwrap_or_default()
        ))
    };
    let wide = suggested.iter().map(|of| names(of).chars().count());
    let wide = wide.max().unwrap_or_default();
    for of in suggested {
        let limit = of.limit.to_string();
        write!(
            to,
            "  {:<wide$}  {limit:<16} refuses {:>9}",
            names(of),
            percent(of.refuses)
        )?;
        match of.suggested {
            Some((requests, refuses)) => {
                let named = limit.split_once('/').map_or("", |(_, unit)| unit);
                let suggested = format!("{requests}/{named}");
                writeln!(
                    to,
                    "   {suggested:<16} would refuse {:>9}",
                    percent(refuses)
                )?;
            }
            None => writeln!(to, "   no number refuses so few")?,
        }
    }
    Ok(())
}

fn notes(to: &mut String, outcome: &Outcome, colour: bool) -> std::fmt::Result {
    let (tally, mut notes) = (&outcome.tally, outcome.about.notes.clone());
    let apart = &tally.apart;
    let mut note = |count: u64, what: &str| {
        if count > 0 {
            notes.push(format!("{} {what}", number(count)));
        }
    };
    note(
        apart.warm_up,
        "requests only filled the counters (--warm-up)",
    );
    note(
        apart.listed,
        "requests were let through or refused by a list, and would be again; they are not compared",
    );
    note(
        apart.outside,
        "requests were refused by limits of subjects that are not in the sample; they are not compared",
    );
    let why = tally.rejection.as_deref().unwrap_or_default();
    note(
        apart.rejected,
        &format!("requests cannot be decided; the first, since {why}"),
    );
    note(
        apart.late,
        "requests came later than those after them, and are decided at the time that it was by then",
    );
    note(
        apart.fallback,
        "requests were decided while the store did not answer, and need not agree",
    );
    note(
        apart.misplaced,
        "requests are on counters that are not whole in the sample, since these rules place them otherwise \
         (`partition_by`): record with RECORD_SAMPLE=1",
    );
    note(
        tally.total.told_otherwise,
        "requests are decided as before, but are told something else, such as another number that is left",
    );
    if !notes.is_empty() {
        to.push_str(&title("notes", colour));
    }
    notes.iter().try_for_each(|note| writeln!(to, "  - {note}"))
}
