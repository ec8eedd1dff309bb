//! Encoding and decoding a value.

use std::hint::black_box;

use criterion::Criterion;
use larder::codec::{Bincode, Codec};

use crate::support::user::User;

pub(crate) fn round_trip(c: &mut Criterion) {
    codec::<Bincode>(c);
    #[cfg(feature = "json")]
    codec::<larder::codec::Json>(c);
    #[cfg(feature = "postcard")]
    codec::<larder::codec::Postcard>(c);
    #[cfg(feature = "messagepack")]
    codec::<larder::codec::MessagePack>(c);
}

fn codec<C: Codec>(c: &mut Criterion) {
    let user = User::new(42);
    let mut bytes = Vec::with_capacity(512);
    c.bench_function(&format!("encode by {}", C::NAME), |b| {
        b.iter(|| {
            bytes.clear();
            C::encode(black_box(&user), &mut bytes).unwrap();
        });
    });
    bytes.clear();
    C::encode(&user, &mut bytes).unwrap();
    c.bench_function(&format!("decode by {}", C::NAME), |b| {
        b.iter(|| C::decode::<User>(black_box(&bytes)).unwrap());
    });
}
