//! `docs/benchmarks.md`.

use crate::effort::Effort;
use crate::figures::Figures;
use crate::report::{NotMeasured, PeerResults, Results, contenders_table, traffic_table};
use crate::rush::{INSTANCES, WITHIN_MS};
use crate::tools::Machine;

/// The page for what was measured with `effort` on `machine`.
pub(crate) fn page(
    results: &Results,
    figures: &Figures,
    effort: &Effort,
    machine: &Machine,
) -> String {
    let Machine {
        cores,
        cpu,
        kernel,
        rustc,
    } = machine;
    let Effort {
        starts,
        tls_starts,
        warm,
        handler_batches,
        handler_calls,
        hot_s,
        zipf_s,
    } = effort;
    let (rounds, calls, warm_up) = (warm.rounds, warm.calls, warm.warm_up);
    let figures = figures.table();
    let contenders = contenders_table(results);
    let traffic = traffic_table(results);
    let (hot_end, zipf_end) = (
        results.hot.asked_at_end.total(),
        results.zipf.asked_at_end.total(),
    );
    let node = peer("Node.js", &results.node);
    let python = peer("Python", &results.python);
    let cores_used = if results.on_one_core {
        "The program and the processes share one core, so that a message waits for work and not for a
  core to wake up; DynamoDB has the others."
    } else {
        "Processes ran on any core, which makes these times luck: there is no `taskset` here."
    };
    let tls = match &results.ours.tls {
        Ok(_) => String::new(),
        Err(NotMeasured(why)) => format!("\nOver TLS, Tollgate was not measured: {why}.\n"),
    };
    format!(
        "# Benchmarks of the authorizer

Made by `cargo run --release -p bench -- authorizer`, from one run. The authorizer is the binary that
is deployed, in the release profile. Beside it, in the same run:

- **floor**: a binary with `lambda_runtime` and no SDK, which answers every event with the same
  policy, and a context as large as Tollgate's;
- **Node.js** and **Python**: what a team would otherwise write. They read the key's item, strongly
  consistent as Tollgate does, and count the call with one conditional write; they remember nothing
  between calls.

![Starts, warm decisions and memory](benchmarks.svg)

## Figures and targets

{figures}
## Contenders

{contenders}{tls}
The peers:

- {node};
- {python}.

## Traffic and DynamoDB

{traffic}
Each shape is one call after the other, at a steady pace. *hot* is one key on one instance, for
{hot_s} s. *zipf* is for {zipf_s} s: the n-th key is asked for a n-th as often as the first, and
each call goes to any of the instances at random, which is about the worst that routing can do to
what an instance remembers. What those instances ask as they start is counted too. As they end they release
what they hold, once in the life of each: that took {hot_end} and {zipf_end} requests more, which
the table leaves out. Units are DynamoDB's units of capacity, as the engine states them.

*rush*, among the figures, is one call on each of {INSTANCES} instances that know nothing yet, all within
{WITHIN_MS} ms, on one key with limits of an hour and of a month that are not reached. It is the same code
in virtual time (`cargo run --release -p simulation -- rush`): a request and its answer take 2 to 20 ms,
and an item of DynamoDB takes 1,000 write units a second, of which it saves up 250; what exceeds that is
throttled.

## What it ran on

{cores} cores of {cpu}, Linux {kernel}; {rustc}.

## How it is measured

A program on the same machine is Lambda to the function: it has the Runtime API and the Extensions
API on a loopback port for each process. It is DynamoDB too: an embedded engine behind HTTP, on a
thread of its own, which counts requests. Every answer is checked: one that does not allow the call,
or does not say what is left of its limit, ends the run. Contenders take turns. Figures are medians,
megabytes are decimal.

- **Start**: from the start of the process to its first poll, {starts} times each; what came before
  that, to fill the page cache, is not counted. Tollgate's opening of a connection and its first read
  are not part of it: they come between the first poll and the moment at which its extension asks for
  an event as well, which is when Lambda takes a start to be over.
- **First decision**: from the start of the process to its first answer, with DynamoDB behind TLS,
  {tls_starts} times each. *Start with TLS and a read* is from the same starts: until that moment if
  DynamoDB was asked before it, and until the first decision otherwise.
- **Warm decision**: from the event being handed to the poll until the answer has been received
  whole: {rounds} rounds of {calls} calls with one key, after {warm_up} that are not counted.
  *Cached and leased* has a shipped plan, and keys remembered for 60 s; *one write* has a plan that
  counts each call in the store. The column of requests says what the store was asked in fact.
  What the stand-in for DynamoDB takes to work out its answer is measured inside it, and taken off each
  call for the figure that is without it.
  {cores_used}
- **The handler alone**: event in, answer out, as bytes, in the benchmark's own process:
  {handler_batches} batches of {handler_calls} calls. The key is in `x-api-key`; one in
  `Authorization` takes a little longer, because the other field is looked for everywhere first.
- **Memory**: `VmRSS` and `VmHWM` of the process after its warm decisions.
- **Zip**: the binary, deflated at level 9.

## What it does not say

Nothing here was measured on AWS. There is no network, so a request to DynamoDB takes as long as the
engine does; there it is a millisecond or more, and what saves requests saves more than here. No
virtual machine is started, no zip is unpacked, and there is a whole core instead of a share of one:
starts on Lambda are longer, for all. Times vary by a quarter between runs; compare within one.
"
    )
}

fn peer(name: &str, peer: &Result<PeerResults, NotMeasured>) -> String {
    match peer {
        Ok(peer) => format!("{}, run by {}", peer.made_of, peer.client),
        Err(NotMeasured(why)) => format!("{name} was not measured: {why}"),
    }
}
