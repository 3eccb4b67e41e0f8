//! Rate limits: token buckets for each client address that make callers wait, first come, first served.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::authorize::table::Bucket;

/// Which of the optional limits are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitSwitches {
    /// `ratelimit.attestation`.
    pub attestation: bool,
    /// `ratelimit.signing`.
    pub signing: bool,
}

/// All limits of a server.
#[derive(Debug)]
pub struct Limits {
    attest: Option<PerAddress>,
    sign_x509: Option<PerAddress>,
    sign_jwt: Option<PerAddress>,
    sign_wit: Option<PerAddress>,
    publish_key: PerAddress,
    post_status: PerAddress,
}

/// Why a call is not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// No amount of waiting lets so many through at once.
    #[error("rate ({count}) exceeds burst size ({burst})")]
    TooMany {
        /// What was asked for.
        count: u32,
        /// What a full bucket holds.
        burst: u32,
    },
}

/// One limit; every client address has a bucket of its own.
#[derive(Debug)]
struct PerAddress {
    /// Tokens a second, and the size of the bucket.
    rate: u32,
    buckets: Mutex<Generations>,
}

/// Buckets of addresses that were silent for a whole period are forgotten: they are full again.
#[derive(Debug)]
struct Generations {
    young: HashMap<IpAddr, Tokens>,
    old: HashMap<IpAddr, Tokens>,
    turned_at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Tokens {
    /// Negative while callers wait for tokens they have reserved.
    count: f64,
    at: Instant,
}

/// Tokens taken for a call that waits; given back if it goes away before its time.
struct Reservation<'a> {
    limit: &'a PerAddress,
    ip: IpAddr,
    count: u32,
    spent: bool,
}

const GENERATION: Duration = Duration::from_mins(1);
const ATTEST_RATE: u32 = 1;
const SIGN_RATE: u32 = 500;
const PUBLISH_KEY_RATE: u32 = 500;
const POST_STATUS_RATE: u32 = 10;

impl Limits {
    /// Makes the limits, with full buckets.
    pub fn new(switches: LimitSwitches) -> Self {
        let signing = || switches.signing.then(|| PerAddress::new(SIGN_RATE));
        Self {
            attest: switches.attestation.then(|| PerAddress::new(ATTEST_RATE)),
            sign_x509: signing(),
            sign_jwt: signing(),
            sign_wit: signing(),
            publish_key: PerAddress::new(PUBLISH_KEY_RATE),
            post_status: PerAddress::new(POST_STATUS_RATE),
        }
    }

    /// Takes `count` tokens of `ip`, waiting for them in turn, and returns how long that took.
    pub async fn wait(
        &self,
        bucket: Bucket,
        ip: IpAddr,
        count: u32,
    ) -> Result<Duration, LimitError> {
        let limit = match bucket {
            Bucket::Attest => self.attest.as_ref(),
            Bucket::SignX509 => self.sign_x509.as_ref(),
            Bucket::SignJwt => self.sign_jwt.as_ref(),
            Bucket::SignWit => self.sign_wit.as_ref(),
            Bucket::PublishKey => Some(&self.publish_key),
            Bucket::PostStatus => Some(&self.post_status),
        };
        match limit {
            Some(limit) => limit.wait(ip, count).await,
            None => Ok(Duration::ZERO),
        }
    }
}

impl PerAddress {
    fn new(rate: u32) -> Self {
        Self {
            rate,
            buckets: Mutex::new(Generations {
                young: HashMap::new(),
                old: HashMap::new(),
                turned_at: Instant::now(),
            }),
        }
    }

    async fn wait(&self, ip: IpAddr, count: u32) -> Result<Duration, LimitError> {
        if count > self.rate {
            return Err(LimitError::TooMany {
                count,
                burst: self.rate,
            });
        }
        let delay = self.take(ip, count);
        if delay > Duration::ZERO {
            let mut reservation = Reservation {
                limit: self,
                ip,
                count,
                spent: false,
            };
            tokio::time::sleep(delay).await;
            reservation.spent = true;
        }
        Ok(delay)
    }

    /// Takes the tokens, on credit if need be, and returns how long it takes until they are there.
    fn take(&self, ip: IpAddr, count: u32) -> Duration {
        let rate = f64::from(self.rate);
        let tokens = self.lock().update(ip, rate, |tokens| {
            tokens.count -= f64::from(count);
        });
        if tokens.count >= 0.0 {
            Duration::ZERO
        } else {
            Duration::try_from_secs_f64(-tokens.count / rate).unwrap_or(Duration::MAX)
        }
    }

    fn give_back(&self, ip: IpAddr, count: u32) {
        let rate = f64::from(self.rate);
        self.lock().update(ip, rate, |tokens| {
            tokens.count = (tokens.count + f64::from(count)).min(rate);
        });
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn update(&mut self, ip: IpAddr, rate: f64, change: impl FnOnce(&mut Tokens)) -> Tokens {
        let now = Instant::now();
        self.turn(now, rate);
        let mut tokens = self
            .young
            .get(&ip)
            .or_else(|| self.old.get(&ip))
            .copied()
            .unwrap_or(Tokens {
                count: rate,
                at: now,
            });
        tokens.count = tokens.at(now, rate);
        tokens.at = now;
        change(&mut tokens);
        self.young.insert(ip, tokens);
        tokens
    }

    fn turn(&mut self, now: Instant, rate: f64) {
        let age = now.saturating_duration_since(self.turned_at);
        if age < GENERATION {
            return;
        }
        // Those who still owe tokens are not forgotten, however silent they are.
        let owing = |(_, tokens): &(IpAddr, Tokens)| tokens.at(now, rate) < 0.0;
        let young = std::mem::take(&mut self.young);
        let old = std::mem::take(&mut self.old);
        self.old = old.into_iter().filter(owing).collect();
        if age < 2 * GENERATION {
            self.old.extend(young);
        } else {
            self.old.extend(young.into_iter().filter(owing));
        }
        self.turned_at = now;
    }
}

impl Tokens {
    /// How many there are by `now`.
    fn at(&self, now: Instant, rate: f64) -> f64 {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        elapsed.mul_add(rate, self.count).min(rate)
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.spent {
            self.limit.give_back(self.ip, self.count);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const ON: LimitSwitches = LimitSwitches {
        attestation: true,
        signing: true,
    };

    fn ip(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_attestation_of_an_address_waits_a_second() {
        let limits = Limits::new(ON);
        let start = Instant::now();
        limits.wait(Bucket::Attest, ip(1), 1).await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
        limits.wait(Bucket::Attest, ip(1), 1).await.unwrap();
        assert!(start.elapsed() >= Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_do_not_wait_for_each_other() {
        let limits = Limits::new(ON);
        let start = Instant::now();
        for last in 1..=50 {
            limits.wait(Bucket::Attest, ip(last), 1).await.unwrap();
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_beyond_the_burst_is_refused_at_once() {
        let limits = Limits::new(ON);
        let error = limits.wait(Bucket::SignX509, ip(1), 501).await.unwrap_err();
        assert_eq!(error.to_string(), "rate (501) exceeds burst size (500)");
        limits.wait(Bucket::SignX509, ip(1), 500).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_caller_who_went_away_had_reserved_is_given_back() {
        let limits = Limits::new(ON);
        limits.wait(Bucket::Attest, ip(1), 1).await.unwrap();
        for _ in 0..100 {
            let waiting = limits.wait(Bucket::Attest, ip(1), 1);
            let gave_up = tokio::time::timeout(Duration::ZERO, waiting).await;
            assert!(gave_up.is_err());
        }
        let start = Instant::now();
        limits.wait(Bucket::Attest, ip(1), 1).await.unwrap();
        assert!(start.elapsed() <= Duration::from_millis(1100));
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_is_switched_off_lets_everything_through() {
        let limits = Limits::new(LimitSwitches {
            attestation: false,
            signing: false,
        });
        limits.wait(Bucket::SignX509, ip(1), 10_000).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn silent_addresses_are_forgotten() {
        let limit = PerAddress::new(1);
        for last in 1..=200 {
            limit.wait(ip(last), 1).await.unwrap();
        }
        tokio::time::advance(3 * GENERATION).await;
        limit.wait(ip(1), 1).await.unwrap();
        let buckets = limit.lock();
        assert_eq!(buckets.young.len() + buckets.old.len(), 1);
    }
}
