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

# PostgreSQL 17, which no package index has with all its programs: Debian 13's packages, unpacked
# below $tools with the libraries they need. apt has folders of its own for that and changes
# nothing of the machine's.
postgres_17() {
  local want=trixie-1 folder=$tools/postgres-17 names
  if installed postgres-17 "$want"; then return; fi
  echo "Installing PostgreSQL 17" >&3
  rm -rf "$folder"
  mkdir -p "$folder/download"
  if ! private_apt "$folder/apt" trixie || ! names=$(postgres_17_packages) ||
    ! (cd "$folder/download" && apt_in "$folder/apt" apt-get download $names); then
    rm -rf "$folder"
    echo "PostgreSQL 17 is left out: no Debian 13 could be reached (log: $log)" >&3
    return
  fi
  local package
  for package in "$folder"/download/*.deb; do dpkg-deb -x "$package" "$folder"; done
  rm -rf "$folder/download" "$folder/apt"
  echo "$want" >"$tools/postgres-17.stamp"
}

# What must be there for PostgreSQL to run: no just-in-time compiler, no Perl, no users.
postgres_17_packages() {
  apt_in "$tools/postgres-17/apt" apt-get install --simulate --no-install-recommends postgresql-17 |
    awk '/^Inst (lib|zlib|postgresql-17|postgresql-client-17)/ { print $2 }' |
    grep -vE '^lib(llvm|z3|perl|.*-perl$)' | grep .
}

# private_apt FOLDER RELEASE: an apt that knows that release of Debian and nothing of this machine
# but its mirror, its proxies and its keys.
private_apt() {
  mkdir -p "$1"/{etc/apt.conf.d,etc/preferences.d,lists/partial,cache/archives/partial}
  touch "$1/status"
  local mirror
  mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list \
    /etc/apt/sources.list.d 2>/dev/null | head -n 1)
  mirror=${mirror:-http://deb.debian.org/debian}
  {
    apt-config dump | grep -E '^Acquire::(http|https|Retries|ForceIPv)' || true
    printf 'Dir::%s;\n' "Etc \"$1/etc\"" "State \"$1\"" "State::status \"$1/status\"" \
      "Cache \"$1/cache\"" 'Etc::trustedparts "/etc/apt/trusted.gpg.d"'
    printf '%s;\n' 'APT::Sandbox::User ""' 'Acquire::Languages "none"'
  } >"$1/apt.conf"
  local keys=/usr/share/keyrings/debian-archive-keyring.gpg
  echo "deb [signed-by=$keys] ${mirror%% *} $2 main" >"$1/etc/sources.list"
  apt_in "$1" apt-get --error-on=any update
}

# apt_in FOLDER COMMAND...: runs one of apt's programs in its private folder.
apt_in() {
  local folder=$1
  shift
  env "APT_CONFIG=$folder/apt.conf" LC_ALL=C "$@"
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
