# bash completion of dima; made by `dima completion bash`
_dima_candidates() {
    printf '%s\n' @TABLE@ | LC_ALL=C awk @PROGRAM@ "$@"
}

_dima() {
    local -a words=()
    local i n=0 glue='' cur stem found line
    for ((i = 1; i <= COMP_CWORD; i++)); do # bash splits words at = and :
        if ((n > 0)) && [[ $glue || ${COMP_WORDS[i]} == [=:] ]]; then
            words[n - 1]+=${COMP_WORDS[i]}
            [[ ${COMP_WORDS[i]} == [=:] ]] && glue=1 || glue=''
        else
            words[n++]=${COMP_WORDS[i]}
        fi
    done
    cur=${words[n - 1]}
    found=$(_dima_candidates "${words[@]}")
    stem=''
    case $cur in
        *[=:]*) stem=${cur%"${cur##*[=:]}"} ;; # of which bash knows only what follows
    esac
    COMPREPLY=()
    case $found in
        @folder | @file)
            compopt -o filenames 2>/dev/null
            local kind=-d
            [[ $found == @file ]] && kind=-f
            while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen "$kind" -- "${cur#"$stem"}")
            ;;
        ?*)
            while IFS=$'\t' read -r line _; do
                printf -v line %q "${line#"$stem"}"
                COMPREPLY+=("$line")
            done <<<"$found"
            ;;
    esac
}

complete -F _dima dima
