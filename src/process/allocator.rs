//! mimalloc, asked in the way that costs it least.
//!
//! The crate `mimalloc` asks for each piece with its alignment, and mimalloc answers most such requests over 1 KiB by
//! taking more and cutting off what is in the way. Nearly all pieces want no more than it gives anyhow: 16 bytes
//! (`MI_MAX_ALIGN_SIZE`), and 8 for pieces that are shorter than 16.

use std::alloc::{GlobalAlloc, Layout};

use libmimalloc_sys::{
    mi_free, mi_malloc, mi_malloc_aligned, mi_realloc, mi_realloc_aligned, mi_zalloc, mi_zalloc_aligned,
};

/// What every piece of mimalloc's is aligned to, if it is as long as that.
const GIVEN: usize = 16;

pub struct Allocator;

/// Whether a piece of this size stands right without being asked to.
fn is_given(size: usize, align: usize) -> bool {
    align <= GIVEN && align <= size
}

// SAFETY: mimalloc keeps the contract of `GlobalAlloc` for what its functions with and without alignment give, and takes
// back either by the same two functions; `is_given` leaves to those without only what they align by themselves.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: the size is not zero, which the caller promises, and the alignment a power of two.
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
        // SAFETY: the piece came from one of the functions here, which the caller promises.
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
                // SAFETY: none of the sizes is zero, and each piece is given back with what it was made with.
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
