{{/* What a schema cannot say: every problem at once, each with what to do about it. */}}
{{- define "tuneyard.refuse" -}}
{{- $problems := list -}}
{{- if not .Values.image -}}
{{- $problems = append $problems "image is empty: build one as docs/container.md says, and give --set image=registry.example.com/me/tuneyard:TAG" -}}
{{- end -}}
{{- if not .Values.job -}}
{{- $problems = append $problems "job is empty: give the job file with --set-file job=job.yaml" -}}
{{- end -}}
{{- if and .Values.prepare.enabled (not .Values.plan) -}}
{{- $problems = append $problems "prepare.enabled needs a plan: a pod without GPUs cannot plan; give --set-file plan=plan.json, or leave it out" -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" .Release.Name) -}}
{{- $problems = append $problems (printf "the release's name %q becomes a host name: only small letters, digits and hyphens, a letter first" .Release.Name) -}}
{{- end -}}
{{- $suffix := printf "-12345%s-%d-12345" (ternary "-ranks-0" "" (eq .Values.workload.kind "jobset")) (sub (int64 .Values.nodes) 1) -}}
{{- $longest := sub 63 (len $suffix) | min 40 -}}
{{- if gt (len .Release.Name) (int $longest) -}}
{{- $problems = append $problems (printf "the release's name has %d characters: with what Kubernetes appends for %d pods, at most %d fit" (len .Release.Name) (int64 .Values.nodes) $longest) -}}
{{- end -}}
{{- if and .Values.kueue.topology.required .Values.kueue.topology.preferred -}}
{{- $problems = append $problems "kueue.topology has both required and preferred: leave one of them empty" -}}
{{- end -}}
{{- if and (not .Values.kueue.queue) (or .Values.kueue.priorityClass .Values.kueue.topology.required .Values.kueue.topology.preferred) -}}
{{- $problems = append $problems "kueue.priorityClass and kueue.topology need kueue.queue, the LocalQueue to wait in" -}}
{{- end -}}
{{- if and (not .Values.runs.claim) (ne .Values.runs.accessMode "ReadWriteMany") (gt (int64 .Values.nodes) 1) -}}
{{- $problems = append $problems (printf "runs.accessMode is %s, but %d pods write there: use ReadWriteMany, or an existing claim" .Values.runs.accessMode (int64 .Values.nodes)) -}}
{{- end -}}
{{- range $name, $_ := .Values.secrets -}}
{{- if hasKey $.Values.environment $name -}}
{{- $problems = append $problems (printf "%s stands under environment and under secrets: leave one of them out" $name) -}}
{{- end -}}
{{- end -}}
{{- $paths := list "/tmp" "/cache" "/dev/shm" "/etc/tuneyard" .Values.runs.path -}}
{{- if .Values.scratch.enabled -}}
{{- $paths = append $paths .Values.scratch.path -}}
{{- end -}}
{{- range .Values.volumes -}}
{{- $paths = append $paths .path -}}
{{- end -}}
{{- range $path := uniq $paths -}}
{{- if gt (sub (len $paths) (len (without $paths $path))) 1 -}}
{{- $problems = append $problems (printf "%s is mounted more than once: runs.path, scratch.path and volumes[].path must differ, and must not be one of /tmp, /cache, /dev/shm and /etc/tuneyard" $path) -}}
{{- end -}}
{{- end -}}
{{- $names := list "trainer" "place" -}}
{{- range .Values.init -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- if ne (len $names) (len (uniq $names)) -}}
{{- $problems = append $problems "the names of the containers under init must differ from each other and from trainer and place" -}}
{{- end -}}
{{- $volumes := list -}}
{{- range .Values.volumes -}}
{{- $volumes = append $volumes .name -}}
{{- end -}}
{{- if ne (len $volumes) (len (uniq $volumes)) -}}
{{- $problems = append $problems "two of volumes have the same name" -}}
{{- end -}}
{{- /* Helm sends JSON, where these stand as they are; the API server reads it as YAML, which refuses or changes them. */ -}}
{{- range $name, $value := .Values -}}
{{- if regexMatch `[\x{7f}-\x{9f}\x{fffe}\x{ffff}]|(^|[^\\])(\\\\)*\\u0000` (toJson $value) -}}
{{- $problems = append $problems (printf "%s has a character in it that Kubernetes does not take: U+0000, U+007F to U+009F, U+FFFE or U+FFFF" $name) -}}
{{- end -}}
{{- end -}}
{{- if $problems -}}
{{- fail (printf "\n- %s" (join "\n- " $problems)) -}}
{{- end -}}
{{- end }}
