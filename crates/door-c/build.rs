//! The library's name for the loader, and that it stays: threads of it may run.

use std::{env, fs, path::Path};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The Python package takes them from here.
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    for (folder, name) in [("include", "cryptofd.h"), ("man", "cryptofd.3")] {
        let source = Path::new(folder).join(name);
        println!("cargo:rerun-if-changed={}", source.display());
        fs::copy(&source, Path::new(&out).join(name)).expect("a copy in OUT_DIR");
    }
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcryptofd.so.0");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
