//! What an SVID costs, in processor time of one thread: `cargo bench -p finial-pki`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a measurement, not production code"
)]

use std::hint::black_box;
use std::time::{Duration, UNIX_EPOCH};

use finial_pki::csr::{Csr, create_with_software};
use finial_pki::key::{KeyKind, SignatureScheme};
use finial_pki::software::SoftwareKey;
use finial_pki::testing::TestCa;
use finial_pki::x509::{SvidTemplate, random_serial, sign_svid, verify_svid};
use spiffe_types::entry::DnsName;
use spiffe_types::id::{SpiffeId, TrustDomain};
use spiffe_types::svid::x509::X509Svid;

const ROUNDS: u32 = 7;
const TIMES: u32 = 1_000;

/// Processor time that this thread has had, which other work on the machine does not change.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

fn measure(what: &str, mut once: impl FnMut()) {
    let best = (0..ROUNDS)
        .map(|_| {
            let start = processor_time();
            for _ in 0..TIMES {
                once();
            }
            processor_time().checked_sub(start).unwrap() / TIMES
        })
        .min()
        .unwrap();
    let per_second = 1.0 / best.as_secs_f64();
    println!(
        "{what:<36} {:>7.1} us {per_second:>9.0} /s",
        best.as_nanos() as f64 / 1000.0
    );
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let now = UNIX_EPOCH + Duration::from_secs(1_795_355_011);
    let ca = runtime.block_on(TestCa::new(
        &TrustDomain::parse("example.org").unwrap(),
        now,
    ));
    let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
    let id = SpiffeId::parse("spiffe://example.org/ns/production/sa/web").unwrap();
    let csr = create_with_software(&key, Some(&id), &[]).unwrap();
    let dns_names =
        ["web.example.org", "www.example.org"].map(|name| DnsName::parse(name).unwrap());
    let issue = |csr: &Csr| {
        let template = SvidTemplate {
            id: id.clone(),
            dns_names: dns_names.to_vec(),
            public_key: csr.public_key().clone(),
            not_before: now - Duration::from_secs(10),
            not_after: now + Duration::from_hours(1),
            serial: random_serial(),
            subject: None,
        };
        runtime.block_on(sign_svid(ca.issuer(), &template)).unwrap()
    };
    let parsed = Csr::parse(&csr).unwrap();
    let leaf = issue(&parsed);
    let bundle = ca.bundle();

    measure("signature alone", || {
        black_box(
            key.sign_now(SignatureScheme::EcdsaP256Sha256, &leaf)
                .unwrap(),
        );
    });
    measure("CSR: read and verify", || {
        black_box(Csr::parse(&csr).unwrap());
    });
    measure("leaf: encode and sign", || {
        black_box(issue(&parsed));
    });
    measure("leaf: read", || {
        black_box(X509Svid::parse(vec![leaf.clone()]).unwrap());
    });
    measure("CSR in, leaf out", || {
        black_box(issue(&Csr::parse(&csr).unwrap()));
    });
    measure("CSR in, leaf out, read again", || {
        black_box(X509Svid::parse(vec![issue(&Csr::parse(&csr).unwrap())]).unwrap());
    });
    measure("key and CSR: make", || {
        let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
        black_box(create_with_software(&key, Some(&id), &[]).unwrap());
    });
    let chain = [leaf];
    measure("chain: verify against a bundle", || {
        black_box(verify_svid(&chain, &bundle, now).unwrap());
    });
}
