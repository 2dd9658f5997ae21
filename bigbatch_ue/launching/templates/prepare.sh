set -e
cd {{ folder }}
{% for line in job.setup %}
{{ line }}
{% endfor %}
set -uo pipefail

{% include "signals.sh" %}
