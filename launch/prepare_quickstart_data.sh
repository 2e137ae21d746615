#!/usr/bin/env bash
# Writes the quickstart's texts from what Debian ships: launch/prepare_quickstart_data.sh [--force]
#   data/kjv.txt  the King James Bible
#   data/cpp.txt  the compiler's C++ headers
#   data/de.txt   German manual pages
#   data/fr.txt   French manual pages
# All are UTF-8 of about the Bible's size, so that no source outweighs the others. Files that exist are kept, unless
# --force is given. Needs the network only for packages that are not installed.
set -euo pipefail
cd "$(dirname "$0")/.."

force=no
if [[ $# -eq 1 && $1 == --force ]]; then
  force=yes
elif [[ $# -ne 0 ]]; then
  echo "usage: launch/prepare_quickstart_data.sh [--force]" >&2
  exit 2
fi

max_bytes=4400000
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# wanted FILE: true if it has to be written.
wanted() { [[ $force == yes || ! -s data/$1 ]]; }

# write FILE: standard input becomes data/FILE, whole or not at all.
write() {
  local bytes
  cat > "$scratch/$1"
  bytes=$(wc -c < "$scratch/$1")
  if (( bytes < max_bytes / 2 )); then
    echo "data: data/$1 would have only $bytes bytes: is the package it is made from damaged?" >&2
    return 1
  fi
  mv "$scratch/$1" "data/$1"
  echo "data: wrote data/$1, $bytes bytes"
}

# Names of files in, the same names in an order that is mixed but always the same out.
shuffled() { LC_ALL=C sort | shuf --random-source=<(seq 1000000); }

# Text in, its first max_bytes out, in whole lines of valid UTF-8.
capped() {
  iconv -c -f UTF-8 -t UTF-8 |
    LC_ALL=C awk -v max_bytes="$max_bytes" '{ bytes += length($0) + 1 } bytes <= max_bytes'
}

# manual_pages PACKAGE: the names of its pages. Minimal images keep manual pages from being installed; then they are
# unpacked from the package into the scratch directory.
manual_pages() {
  local pages
  pages=$(dpkg-query --listfiles "$1" | grep '^/usr/share/man/.*\.gz$' |
    while read -r page; do if [[ -f $page && ! -L $page ]]; then echo "$page"; fi; done)
  if [[ -n $pages ]]; then
    echo "$pages"
    return
  fi
  mkdir "$scratch/$1"
  cd "$scratch/$1"
  if ! apt-get --quiet download "$1" > log 2>&1; then
    cat log >&2
    echo "data: can't download package $1; apt-get update may help" >&2
    return 1
  fi
  dpkg-deb --extract ./*.deb .
  find "$PWD/usr/share/man" -type f -name '*.gz'
}

# Manual pages in, plain text out: one groff for all pages takes seconds, one a page takes minutes. It warns of what
# it can't set in a page and goes on.
rendered() {
  xargs -d '\n' zcat |
    groff -Kutf8 -Tutf8 -t -mandoc -P-cbou -rLL=110n -rHY=0 -dAD=l -rcR=1 2> /dev/null |
    cat --squeeze-blank
}

launch/setup.sh bible-kjv groff-base manpages-de manpages-fr
mkdir -p data
if wanted kjv.txt; then bible -f gen1:1-rev22:21 | write kjv.txt; fi
if wanted cpp.txt; then
  find "/usr/include/c++/$(g++ -dumpversion)" -type f | shuffled | xargs -d '\n' cat | capped | write cpp.txt
fi
if wanted de.txt; then manual_pages manpages-de | shuffled | rendered | capped | write de.txt; fi
if wanted fr.txt; then manual_pages manpages-fr | shuffled | rendered | capped | write fr.txt; fi
