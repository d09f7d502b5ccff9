"""What pyproject.toml cannot say: how the files of the libraries are called."""

import os

from setuptools import setup
from setuptools_rust import build_rust
from setuptools_rust.extension import RustExtension

#: A library that programs are linked with has a version in its name; a module that is loaded by its
#: path has none.
LIBRARIES = {
    "libcryptofd": ".so.0",
    "libcryptofd-openssl": ".so",
    "libcryptofd-pkcs11": ".so",
}


class BuildRust(build_rust):
    """Gives plain libraries the name that the loader looks for, without Python's tags."""

    def get_dylib_ext_path(self, ext: RustExtension, module_name: str) -> str:
        path: str = super().get_dylib_ext_path(ext, module_name)
        folder, name = os.path.split(path)
        if name.startswith("lib"):
            name = name.split(".")[0] + LIBRARIES[name.split(".")[0]]
        return os.path.join(folder, name)  # noqa: PTH118


setup(cmdclass={"build_rust": BuildRust})
