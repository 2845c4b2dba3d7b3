//! `docs/maps.md` describes every map and every field of its keys and values.

use overlay_common::maps::MAPS;
use syn::{Attribute, Item, ItemStruct, Visibility};

use crate::{
    assert_none,
    pages::{Page, page},
    read,
};

const PAGE: &str = "docs/maps.md";
/// Files that define the types of keys and values.
const TYPES: [&str; 3] = ["maps.rs", "outer.rs", "event.rs"];

/// A public field of a key or value.
struct Field {
    /// The maps named in the comment of its type; empty: those of the enclosing type.
    maps: Vec<String>,
    owner: String,
    name: String,
}

#[test]
fn page_has_every_map_and_field() {
    let fields: Vec<_> = TYPES.iter().flat_map(|file| fields(&read(format!("overlay-common/src/{file}")))).collect();
    assert!(fields.len() > 60, "{} fields", fields.len());
    assert_none(&missing(&read(PAGE), &MAPS.map(|map| map.name), &fields));
}

/// The fields of all structs that are read and written as bytes.
fn fields(code: &str) -> Vec<Field> {
    let file = syn::parse_file(code).expect("a source file");
    let structs = file.items.iter().filter_map(|item| if let Item::Struct(item) = item { Some(item) } else { None });
    let is_raw = |item: &&ItemStruct| item.attrs.iter().any(|attribute| attribute.path().is_ident("repr"));
    let fields = structs.filter(is_raw).flat_map(|item| item.fields.iter().map(move |field| (item, field)));
    let public = fields.filter(|(_, field)| matches!(field.vis, Visibility::Public(_)));
    let named = public.filter_map(|(item, field)| Some((item, field.ident.as_ref()?.to_string())));
    named.map(|(item, name)| Field { maps: maps(&item.attrs), owner: item.ident.to_string(), name }).collect()
}

/// The maps named in a comment.
fn maps(attributes: &[Attribute]) -> Vec<String> {
    let comments = attributes.iter().filter_map(|attribute| attribute.meta.require_name_value().ok());
    let texts = comments.map(|comment| match &comment.value {
        syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => text.value(),
        _ => String::new(),
    });
    let words =
        |text: String| text.split('`').filter(|word| word.starts_with("OVL_")).map(str::to_owned).collect::<Vec<_>>();
    texts.flat_map(words).collect()
}

/// Maps without a section, and fields that are in no code span and no sample of their maps' sections.
fn missing(text: &str, maps: &[&str], fields: &[Field]) -> Vec<String> {
    let sections: Vec<_> = text.split("\n## ").map(|section| page(PAGE, &format!("## {section}"))).collect();
    let is_of = |page: &Page, map: &str| {
        let heading = page.text.lines().next().unwrap_or_default();
        heading.split('`').any(|word| word == map)
    };
    let without = maps.iter().filter(|map| !sections.iter().any(|section| is_of(section, map)));
    let mut missing: Vec<_> = without.map(|map| format!("{PAGE} has no section `{map}`")).collect();
    for Field { maps: of, owner, name } in fields {
        let is_near = |page: &&Page| of.is_empty() || of.iter().any(|map| is_of(page, map));
        let sample = format!("\"{name}\":");
        let mut code = sections.iter().filter(is_near).flat_map(|page| &page.code);
        if !code.any(|code| code.text == *name || code.text.contains(&sample)) {
            missing.push(format!("{PAGE} does not describe `{name}` of {owner}"));
        }
    }
    missing
}

#[test]
fn missing_map_and_field_are_found() {
    let code = "/// Key of `OVL_A`.\n#[repr(C)] pub struct Key { pub vni: u32, pub mac: u8, pub tx: u8, padding: u8 }\n\
                #[repr(C)] pub struct Inner { pub rx: u8, pub ip: u8 }\npub struct Map { pub name: u8 }";
    let text = "## `OVL_A`, `OVL_B`\n`vni`: a number\n```\n{ \"mac\": 1 }\n```\n## Other\n`rx`, `tx`\n";
    assert_eq!(
        missing(text, &["OVL_A", "OVL_B", "OVL_C"], &fields(code)),
        [
            "docs/maps.md has no section `OVL_C`",
            "docs/maps.md does not describe `tx` of Key",
            "docs/maps.md does not describe `ip` of Inner",
        ]
    );
}
