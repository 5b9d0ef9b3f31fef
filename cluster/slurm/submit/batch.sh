#!/bin/bash
@directives@

# Written by `tuneyard submit`. SLURM runs it at every start of the job, the first and those after a requeue.
run_dir=@run_dir@
python=@python@
nodes=@nodes@
code=@code@
container=(@container@)

# A task of a job array has a number of its own, which may be the whole array's: SLURM would take it for all tasks.
job=$SLURM_JOB_ID
if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi

# The scheduler may be away for a while, and what it must hear now is what keeps the run alive.
patiently() {
  local pause
  for pause in 1 2 5 15 30 60 60 60; do
    "$@" && return
    sleep "$pause"
  done
  "$@"
}

# When machines are taken away: which of them SLURM calls down, for the agent's verdict.
note_down_nodes() {
  local found="$run_dir/logs/.down-nodes-$SLURM_JOB_ID"
  if sinfo --noheader --Node --states=down,fail,no_respond --format='%N %T' >"$found" 2>/dev/null; then
    mv -f "$found" "$run_dir/logs/down-nodes"
  fi
}

# SLURM ends the job: by itself it requeues one whose machines it needs or has lost, not one whose time is over.
# shellcheck disable=SC2317 # it is called by a trap
ending() {
  if [ "$limit" -gt 0 ] && [ "$SECONDS" -ge $((limit - 5)) ]; then @overrun@; fi
  note_down_nodes
}

# SLURM's warning becomes the `stop` file; a signal to the tasks would hit torchrun and the ranks, too. A warning that
# comes long before the walltime is about preemption, where a site sends it for that, too.
# shellcheck disable=SC2317 # it is called by a trap
warned() {
  local request="$run_dir/.stop-$SLURM_JOB_ID" sign=USR1
  warning=walltime
  if [ "$SECONDS" -lt @early@ ]; then warning=preempted sign=USR2; fi
  if [ ! -e "$run_dir/stop" ] && printf '{"reason": "%s", "by": "warned by SLURM", "time": %s, "urgent": true, "origin": "scheduler"}\n' \
    "$warning" "$(date +%s.%3N)" >"$request" && mv -f "$request" "$run_dir/stop"; then return; fi
  if [ -n "$srun_pid" ]; then kill -s "$sign" "$srun_pid"; fi # somebody asked before, or the disk is full
}

# Runs a program of ours in the job's environment, here on the first node.
once() {
  @once@${container[@]+"${container[@]}"} "$python" -m "$@"
}

@release@
warning="" srun_pid="" status=0 limit=@limit@
trap warned USR1 USR2
trap ending TERM

@setup@
set -u # not before: modules and conda do not bear it
unset SLURM_EXPORT_ENV # srun would take the job's own environment away from its tasks
export TUNEYARD_SCHEDULER=slurm TUNEYARD_SUBMITTED=@submitted@ PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1
if [ -n "$code" ]; then export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$code"; fi
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi

note_down_nodes
@watch@
if [ -z "$warning" ] && grep -qs '"origin": "scheduler"' "$run_dir/stop"; then rm -f "$run_dir/stop"; fi # of the last start
echo "$job ${SLURM_RESTART_COUNT:-0} $(date +%s)" >>"$run_dir/logs/slurm-jobs"
@presubmit@
if [ -z "$warning" ]; then
  srun --export=ALL --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --kill-on-bad-exit=0 --wait=@wait@ \
    ${container[@]+"${container[@]}"} "$python" -m cluster.slurm.job.srun_entry "$run_dir" &
  srun_pid=$!
  while kill -0 "$srun_pid" 2>/dev/null; do # a signal ends `wait`, not srun
    wait "$srun_pid"
    status=$?
  done
fi
@unwatch@

# A job that SLURM is ending is no longer RUNNING: then SLURM has decided, and a cancelled job stays cancelled.
state=$(patiently squeue --noheader --jobs="$job" --format=%T)
if [ "$state" != RUNNING ]; then exit "$status"; fi
answer=$(once cluster.slurm.job.post_job "$run_dir" "$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}" "${warning:-none}")
read -r action status exclude <<<"${answer:-leave 1}"
@decide@
exit "$status"
