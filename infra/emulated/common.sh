# Functions of the scripts in this directory.

home=$PWD/target/emulated

say() { printf 'emulated: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

# Prints the ids of the emulator's process and of the functions' processes in its group. Their commands are
# compared too, because other processes may have the ids by now.
processes() {
  [[ -f $home/pid ]] || return 0
  ps -A -ww -o pid= -o pgid= -o command= |
    awk -v group="$(<"$home/pid")" -v home="$home/" '$2 == group && index($0, home) { print $1 }'
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
  rm -rf "$home"/{pid,env,bin,stack,tmp}
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
