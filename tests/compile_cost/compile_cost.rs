//! What one more type of values, or one more service behind the HTTP layer, costs to build, in functions and in bytes
//! of their code: these do not depend on the machine or on what else it does, as seconds would.

#![allow(clippy::unwrap_used, reason = "a failed step ends the test")]

use std::fs;
use std::path::Path;

use object::{Object, ObjectSymbol, SymbolKind};

/// The functions of a program, and the bytes of their code.
#[derive(Debug)]
struct Code {
    functions: u64,
    bytes: u64,
}

impl Code {
    fn of(program: &str) -> Self {
        let file = fs::read(Path::new(program)).unwrap();
        let file = object::File::parse(&*file).unwrap();
        let symbols = file.symbols();
        let code = symbols.filter(|symbol| symbol.kind() == SymbolKind::Text);
        let bytes: Vec<u64> = code.map(|symbol| symbol.size()).collect();
        Self {
            functions: bytes.len() as u64,
            bytes: bytes.iter().sum(),
        }
    }

    fn beyond(&self, less: &Self) -> Self {
        Self {
            functions: self.functions - less.functions,
            bytes: self.bytes - less.bytes,
        }
    }
}

/// The code that one more type of values adds to a service.
fn one_more_type() -> Code {
    let one = Code::of(env!("CARGO_BIN_EXE_larder_one_type"));
    Code::of(env!("CARGO_BIN_EXE_larder_two_types")).beyond(&one)
}

/// By hand there is no lease, no message and no proof.
#[test]
fn one_more_type_of_values_costs_less_than_by_hand() {
    let one_by_hand = Code::of(env!("CARGO_BIN_EXE_by_hand_one_type"));
    let two_by_hand = Code::of(env!("CARGO_BIN_EXE_by_hand_two_types"));
    let (more, by_hand) = (one_more_type(), two_by_hand.beyond(&one_by_hand));
    println!("larder: {more:?} more; by hand: {by_hand:?} more");
    assert!(
        more.functions > 0 && by_hand.functions > 0,
        "{more:?}, {by_hand:?}"
    );
    // The code of a debug build is that of the functions that a change of the service compiles anew.
    assert!(
        2 * more.functions <= by_hand.functions,
        "{more:?}, by hand {by_hand:?}"
    );
    assert!(
        2 * more.bytes <= by_hand.bytes,
        "{more:?}, by hand {by_hand:?}"
    );
}

/// The HTTP layer handles a request without the types of the inner service, as a cache handles a value.
#[cfg(feature = "http")]
#[test]
fn one_more_service_behind_the_layer_costs_less_than_one_more_type_of_values() {
    let one = Code::of(env!("CARGO_BIN_EXE_http_one_service"));
    let two = Code::of(env!("CARGO_BIN_EXE_http_two_services"));
    let (service, values) = (two.beyond(&one), one_more_type());
    println!("a service: {service:?} more; a type of values: {values:?} more");
    assert!(service.functions > 0, "{service:?}");
    assert!(
        service.functions <= values.functions,
        "{service:?}, a type of values {values:?}"
    );
    assert!(
        service.bytes <= values.bytes,
        "{service:?}, a type of values {values:?}"
    );
}
