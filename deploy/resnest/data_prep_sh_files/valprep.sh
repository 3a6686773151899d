#!/bin/sh
# Sorts the flat ILSVRC2012 validation files into one folder per class (wnid).
#
#   sh valprep.sh [--move | --copy | --link] [--target DIR] [FOLDER]
#
# FOLDER holds ILSVRC2012_val_00000001.JPEG ...; default: ./ImageNet/val if it exists, else the current folder.
# --move (default) sorts within FOLDER. --copy and --link (hard links) do not change FOLDER and fill --target, which
# defaults to FOLDER_by_class. Files are staged and renamed, so an interrupted run can be started again. Nothing is
# overwritten. Exit code 1: a file differs from the one that is already in its place. 2: nothing could be done.
#
# ilsvrc2012_val.txt beside this script has one line per class: its wnid and the last five digits of its 50 files.
set -eu

fail() {
    printf 'valprep: %s\n' "$1" >&2
    exit 2
}

mode=move folder='' target=''
while [ $# -gt 0 ]; do
    case $1 in
        --move | --copy | --link) mode=${1#--} ;;
        --target)
            [ $# -gt 1 ] || fail '--target needs a folder'
            target=$2
            shift
            ;;
        -h | --help)
            sed -n '2,/^set -eu/s/^# \{0,1\}//p' "$0"
            exit 0
            ;;
        -*) fail "unknown option $1; see --help" ;;
        *)
            [ -z "$folder" ] || fail "two folders given, $folder and $1; give one"
            folder=$1
            ;;
    esac
    shift
done
table=$(dirname "$0")/ilsvrc2012_val.txt
[ -r "$table" ] || fail "no table $table; it belongs beside this script"
if [ -z "$folder" ]; then
    if [ -d ./ImageNet/val ]; then folder=./ImageNet/val; else folder=.; fi
fi
[ -d "$folder" ] || fail "no folder $folder; give the one that holds the ILSVRC2012_val files"
if [ -z "$target" ]; then
    if [ $mode = move ]; then target=$folder; else target=${folder%/}_by_class; fi
fi
mkdir -p "$target" || fail "cannot create $target; choose another --target"
staging=$target/.valprep.partial

# Clean up after an interrupted run: a staged file whose original still exists is incomplete or a copy; all others are
# complete.
if [ -d "$staging" ]; then
    for staged in "$staging"/*/*; do
        [ -e "$staged" ] || continue
        name=${staged##*/} class=${staged%/*}
        class=${class##*/}
        if [ -e "$folder/$name" ]; then
            rm -f "$staged"
        else
            mkdir -p "$target/$class"
            mv "$staged" "$target/$class/"
        fi
    done
fi

stage() { # arguments: the class, then the files to sort into it
    class=$1
    shift
    mkdir -p "$staging/$class" "$target/$class"
    case $mode in
        move) mv "$@" "$staging/$class/" ;;
        copy) cp -p "$@" "$staging/$class/" ;;
        link) ln "$@" "$staging/$class/" ;;
    esac
    mv "$staging/$class"/* "$target/$class/"
    rmdir "$staging/$class"
}

placed=0 present=0 missing=0 conflicts=0 first_missing=''
while read -r wnid numbers; do
    set --
    for number in $numbers; do
        name=ILSVRC2012_val_000$number.JPEG
        if [ -e "$target/$wnid/$name" ]; then
            if [ ! -e "$folder/$name" ]; then
                present=$((present + 1))
            elif cmp -s "$folder/$name" "$target/$wnid/$name"; then
                present=$((present + 1))
                if [ $mode = move ]; then rm -f "$folder/$name"; fi
            else
                conflicts=$((conflicts + 1))
                printf 'valprep: %s differs from %s; neither was touched\n' \
                    "$folder/$name" "$target/$wnid/$name" >&2
            fi
        elif [ -e "$folder/$name" ]; then
            set -- "$@" "$folder/$name"
        else
            missing=$((missing + 1))
            if [ $missing -le 3 ]; then first_missing="$first_missing $name"; fi
        fi
    done
    if [ $# -gt 0 ]; then
        stage "$wnid" "$@" || fail "cannot $mode files into $target/$wnid; see the line above"
        placed=$((placed + $#))
    fi
done <"$table"
if [ -d "$staging" ]; then
    for class in "$staging"/*; do
        if [ -d "$class" ]; then rmdir "$class"; fi
    done
    rmdir "$staging"
fi

if [ $((placed + present + conflicts)) -eq 0 ]; then
    fail "no ILSVRC2012_val_000NNNNN.JPEG in $folder; give the folder that holds them"
fi
echo "$target: $placed files placed ($mode), $present in place already, $conflicts conflicts"
if [ $missing -gt 0 ]; then echo "$missing of 50000 files are missing:$first_missing ..."; fi
[ $conflicts -eq 0 ]
