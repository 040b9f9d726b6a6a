# fish completion of dima; made by `dima completion fish`
function __dima_candidates
    set -l words (commandline -opc) (commandline -ct)
    set -l found (printf '%s\n' @TABLE@ | LC_ALL=C awk @PROGRAM@ $words[2..-1])
    switch "$found"
        case @folder
            __fish_complete_directories (commandline -ct)
        case @file
            __fish_complete_path (commandline -ct)
        case '*'
            printf '%s\n' $found
    end
end

complete -c dima -f -a '(__dima_candidates)'
