//! The library's name for the loader, and that it stays: threads of it may run.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcryptofd.so.0");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
