//! Load balancing and session affinity over the equal endpoints of a server. The choice takes no lock and
//! no memory: the state of the endpoints is in atomics, and sets of them are bits.

use std::sync::atomic::Ordering;

use super::endpoint_health::FULL_WEIGHT;
use super::mix;
use super::pool::Pool;
use crate::config::Balance;

impl Pool {
    /// Whether calls are distributed by session or caller.
    pub fn has_session_affinity(&self) -> bool {
        self.balance == Balance::Session && self.endpoints.len() > 1
    }

    /// Chooses an endpoint. `failed` has a bit for each that was tried; `key` is the affinity key of the
    /// session or caller.
    pub fn pick(&self, key: u64, failed: u64) -> usize {
        if self.endpoints.len() == 1 {
            return 0;
        }
        let healthy_set = self.healthy();
        // If no endpoint is healthy, all are tried: none is excluded for good.
        let all = u64::MAX >> (64 - self.endpoints.len());
        let from = [healthy_set & !failed, healthy_set, all & !failed, all]
            .into_iter()
            .find(|set| *set != 0)
            .unwrap_or(all);
        match self.balance {
            Balance::RoundRobin => self.round_robin(from),
            Balance::LeastInFlight => self.least_request(from),
            Balance::Session => {
                let score = |index: &usize| mix(key ^ self.endpoints[*index].place);
                bits(from).max_by_key(score).unwrap_or(0)
            }
        }
    }

    /// A bit for each healthy endpoint.
    pub(crate) fn healthy(&self) -> u64 {
        let now = self.clock();
        let healthy =
            self.endpoints.iter().enumerate().filter(|(_, endpoint)| endpoint.health.is_eligible(now));
        healthy.fold(0, |set, (index, _)| set | 1 << index)
    }

    fn round_robin(&self, from: u64) -> usize {
        let now = self.clock();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = from.count_ones() as usize;
        let nth = |at: usize| bits(from).nth(at % count).unwrap_or(0);
        for step in 0..count {
            let index = nth(turn + step);
            let share = self.endpoints[index].health.weight(now);
            // An endpoint in slow start passes on some of its turns.
            if share == FULL_WEIGHT || mix(turn as u64) % FULL_WEIGHT < share {
                return index;
            }
        }
        nth(turn)
    }

    fn least_request(&self, from: u64) -> usize {
        let now = self.clock();
        // Among equals each in turn.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.endpoints.len();
        let load = |index: &usize| {
            let health = &self.endpoints[*index].health;
            let load = (u64::from(health.in_flight()) + 1) * FULL_WEIGHT * FULL_WEIGHT / health.weight(now);
            (load, (index + self.endpoints.len() - turn) % self.endpoints.len())
        };
        bits(from).min_by_key(load).unwrap_or(0)
    }

    /// Whether there is an eligible endpoint that `failed` does not contain.
    pub fn has_alternative(&self, failed: u64) -> bool {
        let all = u64::MAX >> (64 - self.endpoints.len());
        let healthy_set = self.healthy();
        (if healthy_set == 0 { all } else { healthy_set }) & !failed != 0
    }
}

/// The indices of the bits that are set.
fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let index = (set != 0).then(|| set.trailing_zeros() as usize)?;
        set &= set - 1;
        Some(index)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::HeaderMap;

    use super::*;
    use crate::config::{self, Limits, parse};
    use crate::upstream::UpstreamLimits;
    use crate::upstream::http::endpoint_health::EndpointFault;
    use crate::upstream::http::pool::PoolSettings;

    fn pool(settings: &str, before: Option<&Pool>) -> Pool {
        let text = format!("mcpServers: {{s: {{{settings}}}}}");
        let config = parse("c", &text, &|_| None).expect("a good config").servers["s"].clone();
        let config::ServerTransport::Http { urls, .. } = &config.transport else { panic!("not http") };
        let limits = UpstreamLimits::of(&config, &Limits::default());
        let pool_settings = PoolSettings {
            name: "s",
            urls,
            headers: HeaderMap::new(),
            limits: &limits,
            config: &config,
            tls: Arc::default(),
        };
        Pool::new(pool_settings, before).expect("a pool")
    }

    const THREE: &str = "urls: [\"http://10.0.0.1/mcp\", \"http://10.0.0.2/mcp\", \"http://10.0.0.3/mcp\"]";

    fn eject(pool: &Pool, index: usize) {
        for _ in 0..3 {
            pool.failed(index, EndpointFault::Connect, "test");
        }
    }

    fn picks(pool: &Pool, count: usize) -> Vec<usize> {
        (0..count).map(|_| pool.pick(0, 0)).collect()
    }

    #[test]
    fn round_robin_skips_ejected_endpoints() {
        let pool = pool(THREE, None);
        assert_eq!(picks(&pool, 4), [0, 1, 2, 0]);
        eject(&pool, 1);
        let after = picks(&pool, 10);
        assert!(!after.contains(&1) && after.iter().filter(|index| **index == 0).count() == 5, "{after:?}");
        // A call that failed at one goes to another, as long as there is another.
        assert_eq!((pool.pick(0, 0b001), pool.pick(0, 0b100)), (2, 0));
        assert!(pool.has_alternative(0b001) && !pool.has_alternative(0b101));
    }

    #[test]
    fn the_last_one_stays_and_with_none_all_are_tried() {
        let pool = pool(THREE, None);
        for index in 0..3 {
            eject(&pool, index);
        }
        assert_eq!(picks(&pool, 3), [2, 2, 2], "the last one is not sent away");
        pool.endpoints[2].health.check_failed(1);
        let mut tried = picks(&pool, 3);
        tried.sort_unstable();
        assert_eq!(tried, [0, 1, 2], "all are out");
    }

    #[test]
    fn the_least_busy_is_chosen() {
        let pool = pool(&format!("{THREE}, balance: least_in_flight"), None);
        let _busy = [pool.acquire(0), pool.acquire(0), pool.acquire(2)];
        assert_eq!(picks(&pool, 2), [1, 1]);
        let _more = [pool.acquire(1), pool.acquire(1)];
        assert_eq!(picks(&pool, 2), [2, 2]);
    }

    #[test]
    fn a_session_keeps_its_endpoint_and_few_move_when_one_goes() {
        let settings = format!("{THREE}, balance: session");
        let pool = pool(&settings, None);
        let before: Vec<usize> = (0..300).map(|key| pool.pick(mix(key), 0)).collect();
        for index in 0..3 {
            let share = before.iter().filter(|chosen| **chosen == index).count();
            assert!((60..140).contains(&share), "{index} has {share} of 300");
        }
        eject(&pool, 1);
        for (key, old) in (0..300).zip(&before) {
            let new = pool.pick(mix(key), 0);
            assert!(new == *old || *old == 1, "only those of the one that is out move");
        }
    }

    #[test]
    fn one_that_comes_back_gets_little_at_first() {
        let pool = pool(THREE, None);
        pool.endpoints[0].health.check_passed(1);
        for _ in 0..3 {
            pool.endpoints[0].health.check_failed(3);
        }
        assert!(!picks(&pool, 100).contains(&0));
        pool.endpoints[0].health.check_passed(pool.clock());
        let share = picks(&pool, 300).iter().filter(|index| **index == 0).count();
        assert!((1..60).contains(&share), "{share} of 300");
    }

    #[test]
    fn a_reload_keeps_the_endpoints_that_stay() {
        let old = pool(THREE, None);
        eject(&old, 2);
        let new = pool("urls: [\"http://10.0.0.3/mcp\", \"http://10.0.0.4/mcp\"]", Some(&old));
        assert!(Arc::ptr_eq(&old.endpoints[2], &new.endpoints[0]));
        assert_eq!(picks(&new, 2), [1, 1], "what is known of it stays too");
        assert_eq!(new.endpoints[0].pools.load(Ordering::Relaxed), 2);
        drop(old);
        assert!(new.endpoints[0].release(), "nobody else has it now");
        new.endpoints[0].pools.fetch_add(1, Ordering::Relaxed);
    }
}
