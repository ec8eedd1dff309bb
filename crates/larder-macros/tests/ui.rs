//! What the compiler says of code with the macros: each error is at the token of the user, and says what to write.

#[test]
#[ignore = "compiles larder once more: sh tests/proof.sh tests"]
fn the_compiler_says_what_to_write() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
