/* The syscall instruction, at several addresses: the server's own calls leave at rs_sys, those it makes
 * for its client at rs_client_call, so that a filter can tell them apart by instruction pointer.
 *
 *   int64_t f(int64_t nr, uint64_t a0, a1, a2, a3, a4, a5)
 *
 * in:    nr rdi   a0 rsi   a1 rdx   a2 rcx   a3 r8    a4 r9   a5 8(%rsp)
 * call:  nr rax   a0 rdi   a1 rsi   a2 rdx   a3 r10   a4 r8   a5 r9
 * out:   rax, errors as -errno; the kernel clobbers rcx and r11 only.
 *
 * The kernel's defences make the CPU forget where functions return to, so that the first return
 * after a call costs more than the rest of a short one. The stub jumps instead. The extension may
 * live in a process with a shadow stack, and must return. */
	.text

	.macro leave_door
#ifdef RS_STUB
	pop %rcx
	jmp *%rcx
#else
	ret
#endif
	.endm

	.macro door name
	.globl \name
	.hidden \name
	.type \name, @function
\name:
	mov %rdi, %rax
	mov %rsi, %rdi
	mov %rdx, %rsi
	mov %rcx, %rdx
	mov %r8, %r10
	mov %r9, %r8
	mov 8(%rsp), %r9
.Linstruction_\name:
	syscall
	leave_door
	.size \name, . - \name
	.endm

	.globl rs_sys3
	.hidden rs_sys3
	.type rs_sys3, @function
rs_sys3:
	mov %rdi, %rax
	mov %rsi, %rdi
	mov %rdx, %rsi
	mov %rcx, %rdx
	xor %r10d, %r10d
	xor %r8d, %r8d
	xor %r9d, %r9d
	jmp .Linstruction_rs_sys
	.size rs_sys3, . - rs_sys3

	door rs_sys
	door rs_client_call

/* The same for what may sleep, with one argument more at 16(%rsp): an address of eight bytes. Unless
 * they are zero, the answer is -EINTR, and no call is made. Whoever writes there and then sends the
 * signal that rs_interrupt handles can be sure of that: whether it comes before they are looked at,
 * between that and the instruction, or in the call. */
	.macro waiting_door name
	.globl \name
	.hidden \name
	.type \name, @function
\name:
	mov %rdi, %rax
	mov %rsi, %rdi
	mov %rdx, %rsi
	mov %rcx, %rdx
	mov %r8, %r10
	mov %r9, %r8
	mov 8(%rsp), %r9
	mov 16(%rsp), %rcx
.Lbegin_\name:
	cmpq $0, (%rcx)
	jne .Linterrupted
	syscall
.Lend_\name:
	leave_door
	.size \name, . - \name
	.endm

	waiting_door rs_wait_sys
	waiting_door rs_wait_client_call

.Linterrupted:
	mov $-4, %rax
	leave_door

/* The handler: void f(int, siginfo_t *, ucontext_t *). The instruction that was interrupted is at 168
 * of the context, on every x86_64 kernel. */
	.globl rs_interrupt
	.hidden rs_interrupt
	.type rs_interrupt, @function
rs_interrupt:
	lea .Lbegin_rs_wait_sys(%rip), %rax
	sub 168(%rdx), %rax
	neg %rax
	cmp $(.Lend_rs_wait_sys - .Lbegin_rs_wait_sys), %rax
	jb 1f
	sub $(.Lbegin_rs_wait_client_call - .Lbegin_rs_wait_sys), %rax
	cmp $(.Lend_rs_wait_client_call - .Lbegin_rs_wait_client_call), %rax
	jae 2f
1:	lea .Linterrupted(%rip), %rax
	mov %rax, 168(%rdx)
2:	ret
	.size rs_interrupt, . - rs_interrupt

	.globl rs_restore
	.hidden rs_restore
	.type rs_restore, @function
rs_restore:
	mov $15, %eax /* rt_sigreturn */
	syscall
	.size rs_restore, . - rs_restore

/* Where a helper begins: behind this address its stack has that of its struct rs_work. */
	.globl rs_helper_entry
	.hidden rs_helper_entry
	.type rs_helper_entry, @function
rs_helper_entry:
	xor %ebp, %ebp
	mov (%rsp), %rdi
	and $-16, %rsp
	call rs_helper_main
	ud2
	.size rs_helper_entry, . - rs_helper_entry

#ifndef RS_STUB
/* For clone(2): the child finds where to go on on its new stack, and nothing on its shadow stack. */
	.globl rs_clone_call
	.hidden rs_clone_call
	.type rs_clone_call, @function
rs_clone_call:
	mov %rdi, %rax
	mov %rsi, %rdi
	mov %rdx, %rsi
	mov %rcx, %rdx
	mov %r8, %r10
	mov %r9, %r8
	mov 8(%rsp), %r9
	syscall
	test %rax, %rax
	jz 1f
	ret
1:	pop %rcx
	jmp *%rcx
	.size rs_clone_call, . - rs_clone_call
#endif

/* Where a child begins: the door has taken this address from the stack, and left the child's
 * struct rs_child at the stack pointer. */
	.globl rs_child_entry
	.hidden rs_child_entry
	.type rs_child_entry, @function
rs_child_entry:
	xor %ebp, %ebp
	mov %rsp, %rdi
	and $-16, %rsp
	call rs_child_main
	ud2
	.size rs_child_entry, . - rs_child_entry

	.section .note.GNU-stack, "", @progbits
