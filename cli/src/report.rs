//! Usage events, sent to the API in requests of many.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::client::{ApiError, Call, path};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::text::{compact, printable};

/// Most usage events of a request.
const MAX_EVENTS: usize = 100;
/// Most bytes of a request: below the limit of 1 MB by what surrounds the events.
const MAX_BYTES: usize = 1_000_000 - 1_000;

/// Usage event to count, with the place where it was found.
pub(crate) struct Reported {
    pub(crate) origin: String,
    pub(crate) event: Box<RawValue>,
}

#[derive(Deserialize)]
struct Ingested {
    data: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Outcome {
    outcome: String,
}

/// Numbers of usage events by their outcome.
#[derive(Default)]
struct Totals {
    counted: usize,
    duplicate: usize,
    rejected: usize,
    conflicting: usize,
}

/// Counts usage events. Events that the API rejects are named on standard error, and all others are counted.
pub(crate) async fn report(context: &mut Context, events: &[Reported]) -> Result<(), Failure> {
    let mut totals = Totals::default();
    let mut rest = events;
    while !rest.is_empty() {
        let (request, after) = rest.split_at(request_len(rest));
        rest = after;
        count(context, request, &mut totals).await?;
        context.output.flush()?;
    }
    let Totals {
        counted,
        duplicate,
        rejected,
        conflicting,
    } = totals;
    crate::note(format!(
        "usage events: {counted} counted, {duplicate} counted before, {rejected} rejected, {conflicting} in conflict"
    ));
    match (rejected, conflicting) {
        (0, 0) => Ok(()),
        (0, _) => Err(Failure::new(
            Exit::Conflict,
            "another usage event has the same source and id as each of those in conflict",
        )),
        _ => Err(Failure::of(
            "correct the rejected usage events, and send the file again",
        )),
    }
}

/// Returns how many of these events fit into a request, at least one.
fn request_len(events: &[Reported]) -> usize {
    let mut bytes = 0;
    let fits = |event: &&Reported| {
        bytes += event.event.get().len() + 1;
        bytes <= MAX_BYTES
    };
    events
        .iter()
        .take(MAX_EVENTS)
        .take_while(fits)
        .count()
        .max(1)
}

/// Counts the events of a request. If some are rejected, sends the others again, because then none was counted.
async fn count(
    context: &mut Context,
    events: &[Reported],
    totals: &mut Totals,
) -> Result<(), Failure> {
    let mut events: Vec<&Reported> = events.iter().collect();
    while !events.is_empty() {
        let list: Vec<&str> = events.iter().map(|event| event.event.get()).collect();
        let body = format!("{{\"events\":[{}]}}", list.join(","));
        let call = Call::post_repeatable(path(&["admin", "usage", "events"], &[]), body);
        let problem = match context.client.send(&call).await {
            Ok(response) => {
                let ingested: Ingested = response.read()?;
                for item in &ingested.data {
                    if context.output.is_json {
                        context.output.line(&compact(item.get()))?;
                    }
                    match serde_json::from_str::<Outcome>(item.get()) {
                        Ok(Outcome { outcome }) if outcome == "duplicate" => totals.duplicate += 1,
                        _ => totals.counted += 1,
                    }
                }
                return Ok(());
            }
            Err(ApiError::Problem(_, problem)) if !problem.defects.is_empty() => {
                let mut rejected = BTreeSet::new();
                for defect in &problem.defects {
                    let Some((at, within)) =
                        position(&defect.pointer).filter(|(at, _)| *at < events.len())
                    else {
                        continue;
                    };
                    let origin = &events[at].origin;
                    let (within, reason) = (printable(within), printable(&defect.reason));
                    crate::note(format!("{origin}: rejected: {within}: {reason}"));
                    rejected.insert(at);
                }
                if rejected.is_empty() {
                    return Err(
                        ApiError::Problem(http::StatusCode::UNPROCESSABLE_ENTITY, problem).into(),
                    );
                }
                totals.rejected += rejected.len();
                rejected
            }
            Err(ApiError::Problem(_, problem)) if !problem.conflicts.is_empty() => {
                let mut conflicting = BTreeSet::new();
                for pointer in &problem.conflicts {
                    if let Some((at, _)) = position(pointer).filter(|(at, _)| *at < events.len()) {
                        crate::note(format!("{}: conflict", events[at].origin));
                        conflicting.insert(at);
                    }
                }
                if conflicting.is_empty() {
                    return Err(ApiError::Problem(http::StatusCode::CONFLICT, problem).into());
                }
                totals.conflicting += conflicting.len();
                // The others were counted just now, so that the API would call them duplicates.
                if !context.output.is_json {
                    totals.counted += events.len() - conflicting.len();
                    return Ok(());
                }
                conflicting
            }
            Err(error) => return Err(error.into()),
        };
        let kept = events
            .into_iter()
            .enumerate()
            .filter(|(at, _)| !problem.contains(at));
        events = kept.map(|(_, event)| event).collect();
    }
    Ok(())
}

/// Reads the index of the event in a JSON pointer of a request, and returns it with the pointer within the event.
fn position(pointer: &str) -> Option<(usize, &str)> {
    let rest = pointer.strip_prefix("/events/")?;
    let end = rest.find('/').unwrap_or(rest.len());
    let (index, within) = rest.split_at(end);
    Some((
        index.parse().ok()?,
        if within.is_empty() { "/" } else { within },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(bytes: usize) -> Reported {
        Reported {
            origin: String::new(),
            event: RawValue::from_string(format!("\"{}\"", "x".repeat(bytes - 2))).unwrap(),
        }
    }

    #[test]
    fn a_request_has_at_most_a_hundred_events_and_a_megabyte() {
        let check = |sizes: Vec<usize>, expected: usize| {
            let events: Vec<Reported> = sizes.into_iter().map(reported).collect();
            assert_eq!(request_len(&events), expected);
        };
        check(vec![10; 250], 100);
        check(vec![300_000; 5], 3);
        check(vec![2_000_000, 10], 1);
        check(vec![10], 1);
    }

    #[test]
    fn a_pointer_names_the_event() {
        assert_eq!(
            position("/events/12/data/records/0"),
            Some((12, "/data/records/0"))
        );
        assert_eq!(position("/events/3"), Some((3, "/")));
        assert_eq!(position("/event"), None);
    }
}
