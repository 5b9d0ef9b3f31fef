{{/* Which nodes the pods may go to. */}}
{{- define "tuneyard.placement" -}}
{{- with .Values.schedulerName }}
schedulerName: {{ quote . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ quote . }}
{{- end }}
{{- with .Values.priorityClass }}
priorityClassName: {{ quote . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- mustToYaml . | nindent 2 }}
{{- end }}
tolerations:
  {{- with .Values.tolerations }}
  {{- mustToYaml . | nindent 2 }}
  {{- end }}
  {{- range list "not-ready" "unreachable" }}
  - {key: node.kubernetes.io/{{ . }}, operator: Exists, effect: NoExecute, tolerationSeconds: {{ int64 $.Values.unreachableSeconds }}}
  {{- end }}
{{- with include "tuneyard.affinity" . | fromYaml }}
affinity:
  {{- mustToYaml . | nindent 2 }}
{{- end }}
{{- if .Values.spread }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "tuneyard.selector" (dict "root" . "component" "trainer") | nindent 8 }}
{{- end }}
{{- end }}

{{/* The user's affinity, and excludeNodes in each of its alternatives: a pod may satisfy any one of those. */}}
{{- define "tuneyard.affinity" -}}
{{- $affinity := deepCopy .Values.affinity -}}
{{- if .Values.excludeNodes -}}
{{- $away := dict "key" "kubernetes.io/hostname" "operator" "NotIn" "values" .Values.excludeNodes -}}
{{- $terms := dig "nodeAffinity" "requiredDuringSchedulingIgnoredDuringExecution" "nodeSelectorTerms" (list dict) $affinity -}}
{{- $narrowed := list -}}
{{- range $terms -}}
{{- $expressions := append (.matchExpressions | default list) $away -}}
{{- $narrowed = append $narrowed (merge (dict "matchExpressions" $expressions) .) -}}
{{- end -}}
{{- $required := dict "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $narrowed) -}}
{{- $nodeAffinity := merge $required (dig "nodeAffinity" dict $affinity) -}}
{{- $affinity = set $affinity "nodeAffinity" $nodeAffinity -}}
{{- end -}}
{{- mustToYaml $affinity -}}
{{- end }}
