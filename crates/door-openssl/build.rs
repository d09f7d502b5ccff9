//! Keeps the library in memory once it is loaded: threads may still leave through what it registered
//! (AWS-LC's thread-local state, handlers of fork) after a program unloads the provider.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
