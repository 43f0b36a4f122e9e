//! Routing of calls to instances of a function.
//!
//! An instance serves one call at a time, and a call for which no instance is idle starts a new one
//! (<https://docs.aws.amazon.com/lambda/latest/dg/lambda-concurrency.html>). AWS does not document which idle
//! instance serves a call, and when an idle one ends. Here, the one that was used last serves it, and an instance
//! ends after a fixed time without a call.
//!
//! Time is an argument: the time since the start of the simulation.

use std::time::Duration;

/// Instances of a function, and the times since which they are idle.
#[derive(Debug)]
pub struct Router {
    idle_timeout: Duration,
    /// Instances that have not ended, in the order of their start.
    instances: Vec<Instance>,
    started: usize,
}

#[derive(Debug)]
struct Instance {
    number: usize,
    /// End of its last call, which may be in the future if it is known. `None` until it is.
    idle_from: Option<Duration>,
}

/// The instance that serves a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Number of the instance, in the order of their start.
    pub instance: usize,
    /// Whether the instance is started for this call.
    pub is_new: bool,
}

impl Router {
    /// Creates a router without instances. They end when they have been idle for `idle_timeout`.
    #[must_use]
    pub fn new(idle_timeout: Duration) -> Self {
        Self {
            idle_timeout,
            instances: Vec::new(),
            started: 0,
        }
    }

    /// Routes a call that arrives at `at`. Its instance is busy until the end of the call is known
    /// ([`Self::finish`]) and reached.
    pub fn route(&mut self, at: Duration) -> Route {
        let idle_timeout = self.idle_timeout;
        let idle = self.instances.iter_mut().filter(|instance| {
            let idle_for = instance.idle_for(at);
            idle_for.is_some_and(|idle_for| idle_for < idle_timeout)
        });
        if let Some(instance) = idle.max_by_key(|instance| instance.idle_from) {
            instance.idle_from = None;
            return Route {
                instance: instance.number,
                is_new: false,
            };
        }
        let number = self.started;
        self.started += 1;
        self.instances.push(Instance {
            number,
            idle_from: None,
        });
        Route {
            instance: number,
            is_new: true,
        }
    }

    /// Records that the call which an instance serves ends at `at`.
    pub fn finish(&mut self, instance: usize, at: Duration) {
        let served = self.instances.iter_mut();
        if let Some(served) = served.into_iter().find(|it| it.number == instance) {
            served.idle_from = Some(at);
        }
    }

    /// Ends the instances that have been idle for the timeout at `at`. Returns their numbers.
    pub fn end_idle(&mut self, at: Duration) -> Vec<usize> {
        let idle_timeout = self.idle_timeout;
        let ended = self.instances.extract_if(.., |instance| {
            let idle_for = instance.idle_for(at);
            idle_for.is_some_and(|idle_for| idle_for >= idle_timeout)
        });
        ended.map(|instance| instance.number).collect()
    }

    /// Returns the number of instances that have started.
    #[must_use]
    pub fn started(&self) -> usize {
        self.started
    }

    /// Returns the number of instances that have not ended.
    #[must_use]
    pub fn running(&self) -> usize {
        self.instances.len()
    }
}

impl Instance {
    /// Returns the time since the end of its last call, or `None` if it is busy.
    fn idle_for(&self, at: Duration) -> Option<Duration> {
        at.checked_sub(self.idle_from?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE_TIMEOUT_MS: u64 = 1_000;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Routes calls, each with its arrival and its duration in milliseconds. The end of each is known at once.
    fn routes(router: &mut Router, calls: &[(u64, u64)]) -> Vec<Route> {
        let routes = calls.iter().map(|(at, lasts)| {
            let route = router.route(ms(*at));
            router.finish(route.instance, ms(at + lasts));
            route
        });
        routes.collect()
    }

    fn check(calls: &[(u64, u64)], expected: &[usize]) {
        let routes = || routes(&mut Router::new(ms(IDLE_TIMEOUT_MS)), calls);
        let instances: Vec<usize> = routes().iter().map(|route| route.instance).collect();
        assert_eq!(instances, expected, "{calls:?}");
        assert_eq!(routes(), routes(), "{calls:?}");
    }

    #[test]
    fn an_idle_instance_serves_the_next_call() {
        check(&[(0, 5), (5, 5), (500, 5)], &[0, 0, 0]);
    }

    #[test]
    fn an_instance_serves_one_call_at_a_time() {
        check(&[(0, 5), (1, 5), (4, 5), (5, 5), (6, 5)], &[0, 1, 2, 0, 1]);
    }

    #[test]
    fn the_instance_that_was_used_last_serves_a_call() {
        // Of the three, the second ends its call last, then the first, then the third.
        check(
            &[(0, 20), (1, 30), (2, 8), (50, 9), (51, 9), (52, 9), (53, 9)],
            &[0, 1, 2, 1, 0, 2, 3],
        );
    }

    #[test]
    fn a_call_without_a_known_end_keeps_its_instance_busy() {
        let mut router = Router::new(ms(IDLE_TIMEOUT_MS));
        let first = router.route(ms(0));
        assert_eq!((first.instance, first.is_new), (0, true));
        assert_eq!(router.route(ms(900_000)).instance, 1);
        router.finish(0, ms(900_005));
        assert_eq!(router.route(ms(900_004)).instance, 2);
        let again = router.route(ms(900_005));
        assert_eq!((again.instance, again.is_new), (0, false));
        assert_eq!((router.started(), router.running()), (3, 3));
    }

    #[test]
    fn an_idle_instance_ends_after_the_timeout() {
        let mut router = Router::new(ms(IDLE_TIMEOUT_MS));
        // Both start at once. The second alone serves the later calls.
        routes(&mut router, &[(0, 10), (0, 20), (500, 20)]);
        assert_eq!(router.end_idle(ms(1_009)), [0; 0]);
        assert_eq!(router.end_idle(ms(1_010)), [0]);
        assert_eq!((router.started(), router.running()), (2, 1));
        assert_eq!(router.end_idle(ms(1_519)), [0; 0]);
        assert_eq!(router.end_idle(ms(1_520)), [1]);
        let next = router.route(ms(1_520));
        assert_eq!((next.instance, next.is_new), (2, true));
    }

    #[test]
    fn a_busy_instance_does_not_end() {
        let mut router = Router::new(ms(IDLE_TIMEOUT_MS));
        router.route(ms(0));
        assert_eq!(router.end_idle(ms(900_000)), [0; 0]);
    }

    #[test]
    fn an_instance_past_its_timeout_serves_no_call() {
        let mut router = Router::new(ms(IDLE_TIMEOUT_MS));
        routes(&mut router, &[(0, 10)]);
        assert_eq!(router.route(ms(1_010)).instance, 1);
    }
}
