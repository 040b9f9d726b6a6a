# Sourced by the other scripts.

system() { # install Debian packages where that is possible, or say which are needed
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null
    else
        echo "please install: ${*##-*}" >&2
        return 1
    fi
}
