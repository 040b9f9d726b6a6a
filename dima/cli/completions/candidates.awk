# Candidates for the last of the given words, one a line: word, tab, description. A single line @folder or @file: those.
# The table comes on standard input: scope, word, values, description.
BEGIN {
    FS = "\t"
    n = ARGC - 1
    for (i = 1; i <= n; i++) word[i] = ARGV[i]
    ARGC = 1
    current = word[n]
    command = (n > 1) ? word[1] : ""
    first = 2
    if (command == "dataset" && n > 2) {
        command = "dataset " word[2]
        first = 3
    }
    algorithm = "dima"
    for (i = first; i < n; i++) {
        if (word[i] == "--algorithm" && i + 1 < n) algorithm = word[i + 1]
        else if (word[i] ~ /^--algorithm=/) algorithm = substr(word[i], 13)
        else if (word[i] !~ /^-/ && word[i - 1] !~ /^-/ && word[i] ~ /\//) task = word[i]
        else if (word[i] == "--task" && i + 1 < n) task = word[i + 1]
    }
    suite = task
    sub(/\/.*/, "", suite)
    typed = current
    if (current ~ /^--[^=]+=/) {
        flag = current
        sub(/=.*/, "", flag)
        before = flag "="
        typed = substr(current, length(before) + 1)
    } else if (n > first && word[n - 1] ~ /^--[^=]+$/) flag = word[n - 1]
    scope[command] = 1
    if (command ~ /^(train|fit)$/) scope["learner@" algorithm] = 1
    if (command ~ /^(train|check|dataset record|dataset import)$/) {
        scope["env%" task] = 1
        scope["env%" suite] = 1
    }
    wanted = ""
    values = ""
}
$1 in scope {
    if ($2 == "") argument = $3
    else if ($2 == flag) {
        known = 1
        values = $3
    } else if ($2 !~ /^-/) names[++named] = $2 "\t" $4
    if ($2 ~ /^-/) options[++optional] = $2 "\t" $4
}
/^@/ { list[$1] = list[$1] $2 "\t" $4 "\n" }
END {
    if (known && values != "-") offer(values)
    else if (before == "" && current ~ /^-/) for (i = 1; i <= optional; i++) show(options[i])
    else if (before == "" && named) for (i = 1; i <= named; i++) show(names[i])
    else if (before == "") offer(argument)
}
function offer(kind, parts, count, i) {
    if (kind == "@folder" || kind == "@file") print kind
    else if (kind ~ /^@/) {
        if (kind == "@presets") kind = kind "@" algorithm
        count = split(list[kind], parts, "\n")
        for (i = 1; i < count; i++) show(parts[i])
    } else {
        count = split(kind, parts, " ")
        for (i = 1; i <= count; i++) show(parts[i] "\t")
    }
}
function show(line) {
    if (index(line, typed) == 1) print before line
}
