//! Files and functions stay small. What is larger than the rule is listed with its size, and may only shrink.

use std::collections::BTreeMap;

use syn::{spanned::Spanned, visit::Visit};

use crate::sources::{files, shown, text, without_tests};

/// Most lines of a file, its test module left out.
const FILE_LINES: usize = 600;

/// Most lines of a function, from its signature to its closing brace.
const FUNCTION_LINES: usize = 70;

/// What is larger today: `path` or `path:function`, and how many lines it has.
const LARGER: &[(&str, usize)] = &[];

#[test]
fn files_and_functions_fit_their_page() {
    let mut sizes = BTreeMap::new();
    for path in files("crates", ".rs") {
        let (shown, text) = (shown(&path), text(&path));
        let lines = without_tests(&text).lines().count();
        if lines > FILE_LINES {
            sizes.insert(shown.clone(), lines);
        }
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{shown}: {error}"));
        let mut functions = LongFunctions::default();
        functions.visit_file(&parsed);
        for (name, lines) in functions.found {
            sizes.insert(format!("{shown}:{name}"), lines);
        }
    }
    let listed: BTreeMap<String, usize> = LARGER.iter().map(|(place, lines)| ((*place).to_owned(), *lines)).collect();
    let grown: Vec<_> =
        sizes.iter().filter(|(place, lines)| listed.get(*place).is_none_or(|allowed| *lines > allowed)).collect();
    assert!(grown.is_empty(), "too long, or longer than listed: {grown:#?}");
    let stale: Vec<_> =
        listed.iter().filter(|(place, allowed)| sizes.get(*place).is_none_or(|lines| lines < *allowed)).collect();
    assert!(stale.is_empty(), "these have shrunk: lower the list: {stale:#?}");
}

#[derive(Default)]
struct LongFunctions {
    found: Vec<(String, usize)>,
}

impl LongFunctions {
    fn check(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let lines = block.span().end().line - signature.span().start().line + 1;
        if lines > FUNCTION_LINES {
            self.found.push((signature.ident.to_string(), lines));
        }
    }
}

impl Visit<'_> for LongFunctions {
    fn visit_item_fn(&mut self, item: &syn::ItemFn) {
        self.check(&item.sig, &item.block);
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &syn::ImplItemFn) {
        self.check(&item.sig, &item.block);
        syn::visit::visit_impl_item_fn(self, item);
    }
}
