#compdef dima
# zsh completion of dima; made by `dima completion zsh`
_dima_candidates() {
    printf '%s\n' @TABLE@ | LC_ALL=C awk @PROGRAM@ "$@"
}

_dima() {
    local found line stem=''
    local -a described
    found=$(_dima_candidates "${(@)words[2,CURRENT]}")
    case $found in
        @folder | @file)
            compset -P '--*='
            if [[ $found == @file ]]; then _files; else _files -/; fi
            ;;
        ?*)
            [[ ${words[CURRENT]} == --*=* ]] && stem=${words[CURRENT]%%=*}= && compset -P '--*='
            for line in ${(f)found}; do
                line=${line#$stem}
                described+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
            done
            _describe 'dima' described
            ;;
    esac
}

if [[ $funcstack[1] == _dima ]]; then _dima "$@"; else compdef _dima dima; fi
