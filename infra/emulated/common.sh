# Functions of the scripts in this directory, and of infra/release/test.

home=$PWD/target/emulated

say() { printf 'emulated: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

need() { command -v "$1" >/dev/null || die "there is no $1; $2"; }

need_python() {
  python3 -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    die 'python3 must be 3.11 or newer and have venv; on Debian: apt-get install python3-venv'
}

# Installs the emulator, the SAM CLI and the AWS CLI, unless they are there.
install_tools() {
  local venv=$1 pins=infra/emulated/requirements.txt
  if ! cmp -s "$pins" "$venv/requirements.txt" || ! "$venv/bin/python" -c ''; then
    say 'installing the emulator and the deployment tools'
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$pins"
    cp "$pins" "$venv/"
  fi
}

# Starts the emulator with the tools in $home/venv. All AWS clients of this shell use it from then on.
start_emulator() {
  local port=$1
  unset "${!AWS_@}"
  export AWS_ENDPOINT_URL=http://127.0.0.1:$port AWS_REGION=us-east-1 AWS_DEFAULT_REGION=us-east-1
  export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test
  export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null NO_PROXY=127.0.0.1
  # Job control gives the emulator its own process group. The Docker socket does not exist on purpose: with
  # one, the emulator would remove containers of other emulators.
  set -m
  AUTH=true BIND_HOST=127.0.0.1 GATEWAY_PORT=$port MINISTACK_HOST=127.0.0.1 TMPDIR=$home/tmp \
    STATE_DIR=$home/tmp/state IOT_MTLS_ENABLED=0 SFTP_ENABLED=0 DOCKER_HOST=unix://$home/tmp/no-docker \
    nohup "$home/venv/bin/python" infra/emulated/emulator.py </dev/null >"$home/ministack.log" 2>&1 &
  echo $! >"$home/pid"
  set +m
  until (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
    kill -0 "$(<"$home/pid")" 2>/dev/null || die 'the emulator did not start'
    sleep 0.1
  done
}

# Prints the ids of the stand-in for Stripe, of the emulator's process, and of the functions' processes in its
# group. Their commands are compared too, because other processes may have the ids by now.
processes() {
  local groups
  groups=$(cat "$home"/{pid,stripe-pid} 2>/dev/null | tr '\n' ' ') || true
  [[ -n $groups ]] || return 0
  ps -A -ww -o pid= -o pgid= -o command= |
    awk -v groups=" $groups" -v home="$home/" 'index(groups, " " $2 " ") && index($0, home) { print $1 }'
}

take_down() {
  local signal pids
  for signal in TERM KILL; do
    pids=$(processes)
    [[ -n $pids ]] || break
    kill -s "$signal" $pids 2>/dev/null || true
    for _ in {1..50}; do
      [[ -n $(processes) ]] || break
      sleep 0.1
    done
  done
  rm -rf "$home"/{pid,stripe-pid,env,bin,stack,tmp}
}

# Deploys as described in docs/deploy.md, from the copy of the template that `up` made.
deploy() {
  local stack=$1
  shift
  mkdir -p "$home/tmp/sam"
  # Keeps the SAM CLI from checking for a newer version.
  echo "{\"lastVersionCheck\": $(date +%s)}" >"$home/tmp/sam/metadata.json"
  (cd "$home/stack" && SAM_CLI_TELEMETRY=0 __SAM_CLI_APP_DIR=$home/tmp/sam \
    "$home/venv/bin/sam" deploy --stack-name "$stack" --no-confirm-changeset "$@")
}
