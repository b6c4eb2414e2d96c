//! mimalloc, called in the cheapest way.
//!
//! The crate `mimalloc` passes the alignment with each request, and mimalloc serves most such requests over
//! 1 KiB by allocating more and aligning within it. Nearly all requests need no more alignment than
//! mimalloc guarantees anyway: 16 bytes (`MI_MAX_ALIGN_SIZE`), and 8 for blocks that are shorter than 16.

use std::alloc::{GlobalAlloc, Layout};

use libmimalloc_sys::{
    mi_free, mi_malloc, mi_malloc_aligned, mi_realloc, mi_realloc_aligned, mi_zalloc, mi_zalloc_aligned,
};

/// The alignment of each mimalloc block that is at least this long.
const GIVEN: usize = 16;

pub struct Allocator;

/// Whether a block of this size has this alignment by default.
fn is_given(size: usize, align: usize) -> bool {
    align <= GIVEN && align <= size
}

// SAFETY: mimalloc's functions with and without alignment keep the contract of `GlobalAlloc`, and the same
// two functions accept the blocks of both. `is_given` uses those without alignment only where the default
// alignment suffices.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: the caller promises that the size is not zero and the alignment a power of two.
        unsafe { if is_given(size, align) { mi_malloc(size) } else { mi_malloc_aligned(size, align) } }.cast()
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: as in `alloc`.
        unsafe { if is_given(size, align) { mi_zalloc(size) } else { mi_zalloc_aligned(size, align) } }.cast()
    }

    #[inline]
    unsafe fn dealloc(&self, piece: *mut u8, _: Layout) {
        // SAFETY: the caller promises that the block came from one of the functions here.
        unsafe { mi_free(piece.cast()) }
    }

    #[inline]
    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let (piece, align) = (piece.cast(), layout.align());
        // SAFETY: as in `dealloc` and `alloc`.
        unsafe {
            if is_given(size, align) {
                mi_realloc(piece, size)
            } else {
                mi_realloc_aligned(piece, size, align)
            }
        }
        .cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_stands_where_it_was_asked_to() {
        for align in [1, 2, 4, 8, 16, 32, 64, 128, 4096] {
            for size in [1, 7, 8, 15, 16, 17, 24, 40, 1000, 1025, 13_000, 70_000, 5_000_000] {
                let layout = Layout::from_size_align(size, align).expect("a layout");
                let longer = Layout::from_size_align(3 * size, align).expect("a layout");
                // SAFETY: none of the sizes is zero, and each block is freed with the layout that it was
                // allocated with.
                unsafe {
                    let piece = Allocator.alloc(layout);
                    piece.write_bytes(7, size);
                    let grown = Allocator.realloc(piece, layout, 3 * size);
                    assert_eq!((grown.addr() % align, grown.add(size - 1).read()), (0, 7), "{size} {align}");
                    Allocator.dealloc(grown, longer);
                    let zeroed = Allocator.alloc_zeroed(layout);
                    assert_eq!(
                        (zeroed.addr() % align, zeroed.add(size - 1).read()),
                        (0, 0),
                        "{size} {align}"
                    );
                    Allocator.dealloc(zeroed, layout);
                }
            }
        }
    }
}
