#!/usr/bin/env bash
# Makes sure that what the build and the servers for development need is there. As root it installs Debian packages;
# otherwise it says which. Prints nothing when nothing is missing. The other scripts source this one.

missing=()
need() { # command, Debian package
    command -v "$1" >/dev/null 2>&1 || missing+=("$2")
}
need cc gcc
need c++ g++
need make make
need curl curl
need java openjdk-17-jre-headless
need mvn maven
need npm npm

# The Java that runs may be older than the one Kafka needs.
if command -v java >/dev/null 2>&1; then
    major=$(java -version 2>&1 | sed -n '1s/.*version "\([0-9]*\).*/\1/p')
    if [ "${major:-0}" -lt 17 ]; then missing+=(openjdk-17-jre-headless); fi
fi

if [ "${#missing[@]}" -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing ${missing[*]}" >&2
        apt-get update -qq >&2 &&
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2 || exit 1
    else
        echo "these Debian packages are missing; install them and run the command again:" >&2
        echo "    sudo apt-get install ${missing[*]}" >&2
        exit 1
    fi
fi

if ! command -v cargo >/dev/null 2>&1; then
    echo "cargo is missing: install Rust with rustup (see rustup.rs), then run the command again." >&2
    echo "rust-toolchain.toml names the version; rustup installs it by itself." >&2
    exit 1
fi

# rust-toolchain.toml pins the version. Where rustup may not fetch it, a stable toolchain that is no older will do.
if ! cargo --version >/dev/null 2>&1; then
    stable=$(cargo +stable --version 2>/dev/null | sed -n 's/^cargo 1\.\([0-9]*\)\..*/\1/p')
    if [ "${stable:-0}" -ge 95 ]; then
        export RUSTUP_TOOLCHAIN=stable
    else
        echo "the Rust toolchain that rust-toolchain.toml names is missing: rustup toolchain install" >&2
        exit 1
    fi
fi
