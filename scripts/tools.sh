# Tools that tests and benchmarks share, installed below $tools when missing. Sourced by test and
# bench, which open file descriptor 3 for what the user should see.

pins=$PWD/scripts/pins
versitygw_version=v1.8.0

# installed NAME VERSION: whether a stamp says that this version of a tool is complete.
installed() {
  [ "$(cat "$tools/$1.stamp" 2>/dev/null)" = "$2" ]
}

# python_venv NAME: a virtual environment with exactly the packages of scripts/pins/NAME.txt.
python_venv() {
  local want
  want=$(sha256sum <"$pins/$1.txt")
  if installed "$1" "$want"; then return; fi
  echo "Installing $1" >&3
  rm -rf "${tools:?}/$1"
  /usr/bin/python3 -m venv "$tools/$1"
  "$tools/$1/bin/pip" install --no-cache-dir --disable-pip-version-check --no-deps \
    -r "$pins/$1.txt"
  echo "$want" >"$tools/$1.stamp"
}

# The strict S3 server is built where there is a Go for it. Tests that want it say so when it
# is missing.
versitygw() {
  if installed versitygw "$versitygw_version"; then return; fi
  if ! recent_go; then
    echo "versitygw is left out: it needs Go 1.25" >&3
    return
  fi
  echo "Installing versitygw $versitygw_version" >&3
  GOBIN=$tools/bin GOPATH=$tools/go GOMODCACHE=$tools/go/pkg/mod GOCACHE=$tools/go/cache \
    GOFLAGS="-buildvcs=false -modcacherw" GOTOOLCHAIN=local \
    go install -trimpath -ldflags='-s -w' \
    "github.com/versity/versitygw/cmd/versitygw@$versitygw_version"
  rm -rf "$tools/go"
  echo "$versitygw_version" >"$tools/versitygw.stamp"
}

recent_go() {
  local version
  version=$(go env GOVERSION 2>/dev/null) || return 1
  [ "$(printf '%s\n' go1.25 "$version" | sort -V | head -n 1)" = go1.25 ]
}

# Prints the Debian packages that are missing for the installation of Barman.
barman_packages() {
  if [ -x "$tools/barman/bin/barman-cloud-backup" ]; then return; fi
  local missing=()
  /usr/bin/python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
  # psycopg2 is compiled.
  [ -e /usr/include/python3.11/Python.h ] || missing+=(python3-dev)
  command -v pg_config >/dev/null && [ -e /usr/include/postgresql/libpq-fe.h ] ||
    missing+=(libpq-dev)
  command -v gcc >/dev/null || missing+=(gcc libc6-dev)
  echo "${missing[@]}"
}
