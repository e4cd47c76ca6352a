#!/bin/sh
# Installs the Solidity compiler and the local EVM node into .tools/node, then compiles the development contracts
# into .tools/contracts. Does nothing that is already done; says what it does.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
tools=$root/.tools/node
out=$root/.tools/contracts

say() { printf 'contracts: %s\n' "$*"; }

for tool in node npm tar openssl; do
    command -v "$tool" >/dev/null 2>&1 || { say "needs $tool, which is not installed" >&2; exit 69; }
done

mkdir -p "$tools/bin"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# The compiler, exactly as locked.
if ! cmp -s "$here/package-lock.json" "$tools/package-lock.json" || [ ! -f "$tools/node_modules/solc/package.json" ]; then
    say "installing the Solidity compiler into .tools/node"
    cp "$here/package.json" "$tools/package.json"
    (cd "$tools" && cp "$here/package-lock.json" "$scratch/lock" && cp "$scratch/lock" package-lock.json \
        && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) \
        || { rm -f "$tools/package-lock.json"; exit 69; }
else
    say "the Solidity compiler is there"
fi

# The EVM node: one archive per processor, checked against its recorded hash. A processor without a record uses an
# anvil that is already on the PATH.
case $(uname -m) in
    x86_64) package=@foundry-rs/anvil-linux-amd64 ;;
    *) package= ;;
esac
if [ -z "$package" ]; then
    anvil=$(command -v anvil) || { say "no anvil recorded for processor $(uname -m) and none on the PATH" >&2; exit 69; }
    say "using $anvil"
    ln -sf "$anvil" "$tools/bin/anvil"
else
    line=$(grep "^$package " "$here/anvil.lock")
    if [ -x "$tools/bin/anvil" ] && [ "$(cat "$tools/anvil.installed" 2>/dev/null)" = "$line" ]; then
        say "anvil is there"
    else
        version=$(printf '%s' "$line" | cut -d' ' -f2)
        expected=$(printf '%s' "$line" | cut -d' ' -f3)
        say "installing anvil $version into .tools/node/bin"
        (cd "$scratch" && npm pack "$package@$version" --loglevel=error >/dev/null)
        archive=$(ls "$scratch"/*.tgz)
        found=sha512-$(openssl dgst -sha512 -binary "$archive" | openssl base64 -A)
        if [ "$found" != "$expected" ]; then
            say "the archive of $package $version has hash $found, expected $expected: not installed" >&2
            exit 65
        fi
        tar -xzf "$archive" -C "$scratch"
        install -m 755 "$scratch/package/bin/anvil" "$tools/bin/anvil"
        printf '%s\n' "$line" >"$tools/anvil.installed"
    fi
fi
"$tools/bin/anvil" --version >/dev/null || { say "anvil does not run on this machine" >&2; exit 69; }

# The contracts, when a source or the compiler changed.
sum=$(cat "$here"/*.sol "$here/compile.mjs" "$here/package-lock.json" | openssl dgst -sha256 -r | cut -d' ' -f1)
if [ "$(cat "$out/sources.sha256" 2>/dev/null)" = "$sum" ]; then
    say "the contracts are up to date"
else
    say "compiling the contracts into .tools/contracts"
    rm -rf "$out"
    node "$here/compile.mjs" "$tools/node_modules" "$out"
    printf '%s\n' "$sum" >"$out/sources.sha256"
fi
