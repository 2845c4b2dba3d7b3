//! The texts that are checked for phrases: pages, help, and the comments and literals of source files.

use proc_macro2::{TokenStream, TokenTree};

use crate::{command_lines, commands_of, files_below, pages::pages, read};

/// Directories whose comments and literals are checked.
const SOURCES: [&str; 5] = ["overlay-common/src", "overlay-ebpf/src", "overlay-user/src", "tests/src", "xtask/src"];

/// Replaces code. It is neither a space nor part of a word, so that no phrase matches across it.
const CUT: u8 = b'\0';

/// All texts, with their names. The changelog is not checked: it may contain old names.
pub(crate) fn texts() -> Vec<(String, String)> {
    let pages = pages().into_iter().filter(|page| page.name != "CHANGELOG.md").map(|page| (page.name, page.text));
    let help = command_lines().into_iter().flat_map(|command| commands_of(&command));
    let help = help
        .map(|(words, mut command)| (format!("{} --help", words.join(" ")), command.render_long_help().to_string()));
    let sources =
        SOURCES.iter().flat_map(files_below).filter(|path| path.extension().is_some_and(|found| found == "rs"));
    let sources = sources.map(|path| (path.display().to_string(), prose(&read(&path))));
    pages.chain(help).chain(sources).collect()
}

/// The comments at the beginning of a line and the literals of a Rust file, at their positions; other code is replaced.
pub(crate) fn prose(code: &str) -> String {
    let mut prose: Vec<u8> = code.bytes().map(|byte| if byte == b'\n' { byte } else { CUT }).collect();
    let mut start = 0;
    for line in code.split_inclusive('\n') {
        let end = start + line.len();
        if line.trim_start().starts_with("//") {
            let text = end - line.trim_start().trim_start_matches(['/', '!']).len();
            prose[start..text].fill(b' ');
            prose[text..end].copy_from_slice(&code.as_bytes()[text..end]);
        }
        start = end;
    }
    let tokens = code.parse().unwrap_or_else(|error| panic!("{error}: {code}"));
    copy_literals(tokens, code.as_bytes(), &mut prose);
    String::from_utf8(prose).expect("whole lines and literals")
}

/// Copies literals, also those inside macros. Escapes become spaces, so that lines and columns stay the same.
fn copy_literals(tokens: TokenStream, code: &[u8], prose: &mut [u8]) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => copy_literals(group.stream(), code, prose),
            // A doc comment is a literal, too.
            TokenTree::Literal(literal) if !code[literal.span().byte_range()].starts_with(b"/") => {
                let range = literal.span().byte_range();
                let mut escaped = false;
                for (to, byte) in prose[range.clone()].iter_mut().zip(&code[range]) {
                    let is_blank = *byte != b'\n' && (escaped || *byte == b'\\');
                    *to = if is_blank { b' ' } else { *byte };
                    escaped = *byte == b'\\' && !escaped;
                }
            }
            _ => {}
        }
    }
}
