//! Encoding and decoding a value.

use std::hint::black_box;

use criterion::Criterion;
use larder::codec::{Bincode, Codec, Json, MessagePack, Postcard};

use crate::support::user::User;

pub(crate) fn round_trip(c: &mut Criterion) {
    codec(c, &Bincode);
    codec(c, &Json);
    codec(c, &Postcard);
    codec(c, &MessagePack);
}

fn codec<C: Codec>(c: &mut Criterion, codec: &C) {
    let user = User::new(42);
    let mut bytes = Vec::with_capacity(512);
    c.bench_function(&format!("encode by {}", C::NAME), |b| {
        b.iter(|| {
            bytes.clear();
            codec.encode(black_box(&user), &mut bytes).unwrap();
        });
    });
    bytes.clear();
    codec.encode(&user, &mut bytes).unwrap();
    c.bench_function(&format!("decode by {}", C::NAME), |b| {
        b.iter(|| codec.decode::<User>(black_box(&bytes)).unwrap());
    });
}
