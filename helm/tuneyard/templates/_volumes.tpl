{{/* Only kinds of volumes that the restricted profile allows: claims, ConfigMap, emptyDir. */}}
{{- define "tuneyard.volumes" -}}
- name: runs
  persistentVolumeClaim: {claimName: {{ include "tuneyard.runsClaim" . | quote }}}
- name: job
  configMap: {name: {{ .Release.Name | quote }}}
- name: shm
  emptyDir:
    medium: Memory
    {{- with .Values.sharedMemory }}
    sizeLimit: {{ quote . }}
    {{- end }}
- name: tmp
  emptyDir: {}
- name: cache
  emptyDir: {}
{{- if .Values.scratch.enabled }}
- name: scratch
  {{- if .Values.scratch.sizeLimit }}
  emptyDir: {sizeLimit: {{ quote .Values.scratch.sizeLimit }}}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end }}
{{- range .Values.volumes }}
- name: {{ printf "volume-%s" .name | quote }}
  persistentVolumeClaim: {claimName: {{ quote .claim }}}
{{- end }}
{{- end }}

{{- define "tuneyard.mounts" -}}
- {name: runs, mountPath: {{ quote .Values.runs.path }}}
- {name: job, mountPath: /etc/tuneyard, readOnly: true}
- {name: shm, mountPath: /dev/shm}
- {name: tmp, mountPath: /tmp}
- {name: cache, mountPath: /cache}
{{- if .Values.scratch.enabled }}
- {name: scratch, mountPath: {{ quote .Values.scratch.path }}}
{{- end }}
{{- range .Values.volumes }}
- name: {{ printf "volume-%s" .name | quote }}
  mountPath: {{ quote .path }}
  readOnly: {{ .readOnly | default false }}
  {{- with .subPath }}
  subPath: {{ quote . }}
  {{- end }}
{{- end }}
{{- end }}
